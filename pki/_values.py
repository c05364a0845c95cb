"""The values that :mod:`pki.authority` takes and returns, and its error. They know nothing."""

from __future__ import annotations

import dataclasses
import datetime as dt
import enum
import ipaddress
from typing import Any, Literal

KeyType = Literal["ec-p384", "ec-p256", "rsa-3072", "rsa-4096", "ed25519"]
KEY_TYPES: tuple[KeyType, ...] = ("ec-p384", "ec-p256", "rsa-3072", "rsa-4096", "ed25519")
"""The kinds of key that can be made."""
CA_KEY_TYPE: KeyType = "ec-p384"
DEVICE_KEY_TYPE: KeyType = "ec-p256"

Reason = Literal[
    "unspecified",
    "keyCompromise",
    "affiliationChanged",
    "superseded",
    "cessationOfOperation",
    "privilegeWithdrawn",
]
REASONS: tuple[Reason, ...] = (
    "unspecified",
    "keyCompromise",
    "affiliationChanged",
    "superseded",
    "cessationOfOperation",
    "privilegeWithdrawn",
)
"""Why a certificate is revoked (RFC 5280, 5.3.1: those that make sense for a device)."""

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
IPNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network


class PkiError(ValueError):
    """Something that is asked for cannot be done, or what was read is not in order.

    The message says what and where, and what to do. It never holds a passphrase.
    """


@dataclasses.dataclass(frozen=True, slots=True)
class Names:
    """The names by which a device can be verified: its subject alternative names, in normal form.

    Made by :func:`~pki.authority.parse_names`.
    """

    dns: tuple[str, ...] = ()
    """Lower case, international ones as A-labels (``xn--...``)."""
    ips: tuple[IPAddress, ...] = ()
    uris: tuple[str, ...] = ()
    """The identity. A certificate of ours has exactly one."""

    def as_dict(self) -> dict[str, list[str]]:
        """For JSON: the keys ``dns``, ``ips`` and ``uris``."""
        return {
            "dns": list(self.dns),
            "ips": [str(ip) for ip in self.ips],
            "uris": list(self.uris),
        }

    def __str__(self) -> str:
        return ", ".join(
            [f"DNS:{name}" for name in self.dns]
            + [f"IP:{ip}" for ip in self.ips]
            + [f"URI:{uri}" for uri in self.uris]
        )


@dataclasses.dataclass(frozen=True, slots=True)
class KeyAndCertificate:
    """A private key with its certificate, both PEM."""

    key: bytes = dataclasses.field(repr=False)
    certificate: bytes


@dataclasses.dataclass(frozen=True, slots=True)
class Request:
    """What a certificate signing request asks for, to be shown before it is signed."""

    name: str
    """The common name; empty if there is none."""
    names: Names
    key: str
    """The kind of key, like ``ec-p256``."""
    key_fingerprint: str
    """SHA-256 of the public key, hex, to compare with the device's."""
    ignored: tuple[str, ...]
    """What else it asks for (other parts of a subject, extensions), and what is not copied."""

    def as_dict(self) -> dict[str, Any]:
        """For JSON: a key for each attribute."""
        return _as_dict(self)


@dataclasses.dataclass(frozen=True, slots=True)
class CertificateInfo:
    """What a certificate says."""

    name: str
    """The common name."""
    subject: str
    """In the form of RFC 4514, like ``CN=device,O=plant``."""
    issuer: str
    names: Names
    key: str
    """The kind of key, like ``ec-p256``."""
    serial: str
    """Hex in normal form, see :func:`~pki.authority.parse_serial`."""
    not_before: dt.datetime
    not_after: dt.datetime
    fingerprint: str
    """SHA-256 of the certificate, hex."""
    key_fingerprint: str
    """SHA-256 of the public key, hex. It stays the same in a renewal."""
    is_ca: bool

    def as_dict(self) -> dict[str, Any]:
        """For JSON: a key for each attribute, times as ISO 8601 in UTC."""
        return _as_dict(self)


@dataclasses.dataclass(frozen=True, slots=True)
class Revocation:
    """An entry of a revocation list."""

    serial: str
    """Hex in normal form, see :func:`~pki.authority.parse_serial`."""
    when: dt.datetime
    """With time zone."""
    reason: Reason = "unspecified"

    def as_dict(self) -> dict[str, Any]:
        """For JSON: a key for each attribute, times as ISO 8601 in UTC."""
        return _as_dict(self)


@dataclasses.dataclass(frozen=True, slots=True)
class CrlInfo:
    """What a revocation list says."""

    issuer: str
    number: int
    this_update: dt.datetime
    next_update: dt.datetime
    """From then on it is stale, and who checks it refuses every certificate of this CA."""
    revoked: tuple[Revocation, ...]

    def as_dict(self) -> dict[str, Any]:
        """For JSON: a key for each attribute, times as ISO 8601 in UTC."""
        return _as_dict(self)


class Severity(enum.IntEnum):
    """How bad a finding is; the number is the exit code of ``check``."""

    GOOD = 0
    RENEW = 1
    BROKEN = 2


@dataclasses.dataclass(frozen=True, slots=True)
class Finding:
    """One result of a check."""

    severity: Severity
    topic: str
    """``chain``, ``key``, ``host``, ``expiry``, ``profile``, ``revoked`` or ``crl``."""
    text: str
    """What is the case and, unless it is good, what to do."""

    def as_dict(self) -> dict[str, str]:
        """For JSON: the keys ``severity`` (good, renew, broken), ``topic`` and ``text``."""
        return {
            "severity": self.severity.name.lower(),
            "topic": self.topic,
            "text": self.text,
        }


def _as_dict(value: Any) -> dict[str, Any]:
    return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}


def _plain(value: Any) -> Any:
    if isinstance(value, dt.datetime):
        return value.astimezone(dt.UTC).isoformat(timespec="seconds")
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return value.as_dict() if hasattr(value, "as_dict") else value
