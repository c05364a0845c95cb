"""What a certificate authority does, as pure functions: PEM bytes and small frozen values in and out.

Create a root, issue key and certificate, read and sign a certificate signing request (CSR), renew,
build a revocation list (CRL), inspect, check. Knows no files, prints nothing, and reads the clock
only where `now` (a datetime with time zone) is not given. Whatever is wrong raises
:class:`PkiError`; its message says what and where, and what to do, and never holds a passphrase.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import enum
import ipaddress
from collections.abc import Iterable
from typing import Any, Literal

KeyType = Literal["ec-p384", "ec-p256", "rsa-3072", "rsa-4096", "ed25519"]
KEY_TYPES: tuple[KeyType, ...] = ("ec-p384", "ec-p256", "rsa-3072", "rsa-4096", "ed25519")
"""The kinds of key that can be made; the first is the default of a CA."""
DEVICE_KEY_TYPE: KeyType = "ec-p256"

CA_DAYS = 3650
DEVICE_DAYS = 365
"""Default and maximum of a device's certificate."""
CRL_DAYS = 90

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
"""Why a certificate is revoked (RFC 5280, 5.3.1, those of a device)."""

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
IPNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network


class PkiError(ValueError):
    """Something that is asked for cannot be done, or what was read is not in order."""


# --- values ---------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, slots=True)
class Names:
    """The subject alternative names of a device, in their normal form. Make them with parse_names."""

    dns: tuple[str, ...] = ()
    """Lower case, international ones as A-labels (``xn--...``)."""
    ips: tuple[IPAddress, ...] = ()
    uris: tuple[str, ...] = ()
    """In a certificate of ours exactly one: the identity."""

    def as_dict(self) -> dict[str, list[str]]:
        """For JSON: the keys ``dns``, ``ips`` and ``uris``."""
        raise NotImplementedError

    def __str__(self) -> str:
        """For people: ``DNS:a.example, IP:10.0.0.3, URI:spiffe://ca/a``."""
        raise NotImplementedError


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
    """SHA-256 of the public key (SubjectPublicKeyInfo), hex: to compare with the device's."""
    ignored: tuple[str, ...]
    """Other subject parts and extensions that it asks for, and that are not copied."""

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        raise NotImplementedError


@dataclasses.dataclass(frozen=True, slots=True)
class CertificateInfo:
    """What a certificate says."""

    name: str
    """The common name."""
    subject: str
    """As in RFC 4514: ``CN=device,O=plant``."""
    issuer: str
    names: Names
    key: str
    """The kind of key, like ``ec-p256``."""
    serial: str
    """Hex, lower case, no leading zeros: as everywhere here, see parse_serial."""
    not_before: dt.datetime
    not_after: dt.datetime
    fingerprint: str
    """SHA-256 of the certificate, hex, lower case."""
    is_ca: bool
    key_fingerprint: str
    """SHA-256 of the public key, hex: the same before and after a renewal."""

    def as_dict(self) -> dict[str, Any]:
        """For JSON (times as ISO 8601 in UTC)."""
        raise NotImplementedError


@dataclasses.dataclass(frozen=True, slots=True)
class Revocation:
    """An entry of a revocation list."""

    serial: str
    """Hex, as parse_serial returns it."""
    when: dt.datetime
    """With time zone."""
    reason: Reason = "unspecified"


@dataclasses.dataclass(frozen=True, slots=True)
class CrlInfo:
    """What a revocation list says."""

    issuer: str
    number: int
    this_update: dt.datetime
    next_update: dt.datetime
    """From then on it is stale, and those who check it refuse every certificate of this CA."""
    revoked: tuple[Revocation, ...]

    def as_dict(self) -> dict[str, Any]:
        """For JSON (times as ISO 8601 in UTC)."""
        raise NotImplementedError


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
        raise NotImplementedError


@dataclasses.dataclass(frozen=True, slots=True)
class Authority:
    """A CA that can sign: certificate and private key, loaded and found to belong together.

    Load it once with load_authority and use it often: decrypting the key takes 0.1 s.
    """

    certificate: bytes
    """PEM."""
    name: str
    """The same for all generations of this CA; `O` of what it signs, and in identities."""
    info: CertificateInfo


# --- names ----------------------------------------------------------------------------------------


def check_name(name: str) -> str:
    """Return the name of a CA or of a device if it is good, stripped of nothing.

    1 to 64 characters (a CA: 50) that can be a file's name: no control characters, no path
    separators, no wildcards, no spaces at either end, not ``.`` or ``..``, no leading ``-``.

    Raises:
        PkiError: says what is wrong with it.
    """
    raise NotImplementedError


def parse_names(
    hosts: Iterable[str] = (),
    *,
    dns: Iterable[str] = (),
    ips: Iterable[str] = (),
    uris: Iterable[str] = (),
) -> Names:
    """Turn what a user typed into names; duplicates count once, the order stays.

    `hosts` may be DNS names or addresses, mixed. An address among `dns` becomes an address.

    Raises:
        PkiError: an empty name, a control character, a wildcard other than ``*.`` before two or
            more labels, an invalid international name, no address, no absolute URI, two URIs.
    """
    raise NotImplementedError


def identity(ca_name: str, name: str) -> str:
    """Return the identity of a device, ``spiffe://CA-NAME/NAME``.

    Of the CA's name lower case letters, digits, dots, dashes and underscores stay, and what is
    between them becomes one dash. In the device's name, other characters are percent-encoded.
    """
    raise NotImplementedError


def parse_serial(text: str) -> str:
    """Return a serial number (hex; upper case, colons, a leading ``0x`` allowed) in normal form.

    Raises:
        PkiError: it is no hexadecimal number.
    """
    raise NotImplementedError


# --- keys -----------------------------------------------------------------------------------------


def make_key(key_type: KeyType = DEVICE_KEY_TYPE, passphrase: str | None = None) -> bytes:
    """Generate a private key and return it as PEM (PKCS#8).

    With a passphrase it is encrypted with AES-256-CBC under PBKDF2-HMAC-SHA256, 600,000 rounds.

    Raises:
        PkiError: unknown type, empty passphrase.
    """
    raise NotImplementedError


def encrypt_key(key: bytes, old: str | None, new: str | None) -> bytes:
    """Return the private key with another passphrase (None: not encrypted).

    Raises:
        PkiError: it cannot be read with `old`.
    """
    raise NotImplementedError


def is_encrypted(key: bytes) -> bool:
    """Whether a private key needs a passphrase.

    Raises:
        PkiError: this is no private key in PEM.
    """
    raise NotImplementedError


def public_key(key: bytes, passphrase: str | None = None) -> bytes:
    """Return the public key (PEM) of a private key.

    Raises:
        PkiError: it cannot be read, or the passphrase is wrong, missing or not needed.
    """
    raise NotImplementedError


# --- the authority --------------------------------------------------------------------------------


def make_root(
    name: str,
    *,
    key_type: KeyType = "ec-p384",
    days: int = CA_DAYS,
    permit_dns: Iterable[str] = (),
    permit_ips: Iterable[str] = (),
    passphrase: str | None = None,
    now: dt.datetime | None = None,
) -> KeyAndCertificate:
    """Create a root, or the next generation of one: `O` is the name, `CN` is unique.

    Parameters:
        days: 1 to 7300.
        permit_dns: if given, DNS names of devices must be these or below these.
        permit_ips: if given, addresses of devices must be in these networks (``10.0.0.0/8``) or
            be these addresses.
        passphrase: encrypts the private key.

    Raises:
        PkiError: a parameter is bad.
    """
    raise NotImplementedError


def load_authority(certificate: bytes, key: bytes, passphrase: str | None = None) -> Authority:
    """Return the CA, ready to sign.

    Raises:
        PkiError: a part cannot be read, is no CA, or the two do not belong together; the passphrase
            is wrong, missing, or not needed.
    """
    raise NotImplementedError


def issue(
    authority: Authority,
    name: str,
    names: Names,
    *,
    key_type: KeyType = DEVICE_KEY_TYPE,
    passphrase: str | None = None,
    days: int = DEVICE_DAYS,
    now: dt.datetime | None = None,
) -> KeyAndCertificate:
    """Make a key and its certificate in one step. As make_key and certify."""
    raise NotImplementedError


def certify(
    authority: Authority,
    name: str,
    names: Names,
    public_key: bytes,
    *,
    days: int = DEVICE_DAYS,
    now: dt.datetime | None = None,
) -> bytes:
    """Issue a certificate for a public key (PEM) and return it (PEM).

    Without a URI in `names`, the default identity is added. It begins 5 minutes in the past, and
    ends with the CA if that is earlier.

    Raises:
        PkiError: bad name; neither DNS name nor address; a name that the CA's constraints do not
            permit; a ``spiffe:`` URI of another CA; a weak key; not 1 to 365 days; the CA has
            expired.
    """
    raise NotImplementedError


def make_request(name: str, names: Names, key: bytes, passphrase: str | None = None) -> bytes:
    """Return a certificate signing request (PEM) for a private key.

    `names` may lack the URI: the CA adds ``spiffe://CA-NAME/NAME`` then.

    Raises:
        PkiError: bad name, or the key cannot be read.
    """
    raise NotImplementedError


def read_request(csr: bytes) -> Request:
    """Return what a certificate signing request (PEM) asks for.

    Raises:
        PkiError: it is malformed, its signature is wrong, it asks for names of other kinds than
            DNS, IP and URI, for bad ones, or for more than one URI.
    """
    raise NotImplementedError


def sign(
    authority: Authority,
    csr: bytes,
    *,
    name: str | None = None,
    days: int = DEVICE_DAYS,
    now: dt.datetime | None = None,
) -> bytes:
    """Sign a certificate signing request: only key and alternative names are copied.

    Parameters:
        name: the common name, instead of the one that the request has.

    Raises:
        PkiError: as read_request and certify.
    """
    raise NotImplementedError


def renew(
    authority: Authority,
    certificate: bytes,
    *,
    former: bytes = b"",
    public_key: bytes | None = None,
    days: int = DEVICE_DAYS,
    now: dt.datetime | None = None,
) -> bytes:
    """Return a new certificate for the key and the names of an old one.

    Parameters:
        former: former generations of the CA (PEM, any number), whose certificates are renewed too.
        public_key: a new key (PEM), instead of the old one.

    Raises:
        PkiError: neither this CA nor a former one has issued it; and as certify.
    """
    raise NotImplementedError


# --- revocation -----------------------------------------------------------------------------------


def make_crl(
    authority: Authority,
    revoked: Iterable[Revocation],
    *,
    number: int,
    days: int = CRL_DAYS,
    now: dt.datetime | None = None,
) -> bytes:
    """Return a revocation list (PEM), valid for some days; `number` (1, 2, ...) has to increase.

    Raises:
        PkiError: a parameter is bad, or a serial number is there twice.
    """
    raise NotImplementedError


def read_crl(crl: bytes, ca: bytes | None = None) -> CrlInfo:
    """Return what a revocation list says, having verified it with a CA (PEM, any number) if given.

    Raises:
        PkiError: it is malformed, or none of the CAs signed it.
    """
    raise NotImplementedError


# --- looking --------------------------------------------------------------------------------------


def kind_of(data: bytes) -> Literal["certificate", "request", "crl", "key"]:
    """Return what a file holds, by its first PEM header.

    Raises:
        PkiError: none of these.
    """
    raise NotImplementedError


def inspect(certificate: bytes) -> CertificateInfo:
    """Return what a certificate (PEM, exactly one) says.

    Raises:
        PkiError: it cannot be read.
    """
    raise NotImplementedError


def bundle(*parts: bytes) -> bytes:
    """Return certificates of CAs (PEM, any number a part) as one file, each once, in this order.

    Raises:
        PkiError: a part is empty or holds anything but CA certificates.
    """
    raise NotImplementedError


def split(data: bytes) -> tuple[bytes, ...]:
    """Return the certificates of a file one by one (PEM).

    Raises:
        PkiError: it holds none, or something else.
    """
    raise NotImplementedError


def check(
    certificate: bytes,
    ca: bytes,
    *,
    key: bytes | None = None,
    passphrase: str | None = None,
    hosts: Iterable[str] = (),
    crl: bytes | None = None,
    within: dt.timedelta = dt.timedelta(days=30),
    now: dt.datetime | None = None,
) -> tuple[Finding, ...]:
    """Check a device's certificate: chain, key, hosts, expiry, profile, revocation.

    Never raises for what it finds in `certificate`, `ca`, `key` or `crl`: that is a finding.

    Parameters:
        ca: the CAs that it may be from (PEM, any number).
        key: its private key; what is not given is not checked.
        hosts: DNS names and addresses by which it must be reachable.
        crl: revocation lists (PEM, any number).
        within: what expires in less than this needs renewal.
    """
    raise NotImplementedError


def check_ca(
    certificate: bytes,
    *,
    key: bytes | None = None,
    passphrase: str | None = None,
    crl: bytes | None = None,
    within: dt.timedelta = dt.timedelta(days=30),
    now: dt.datetime | None = None,
) -> tuple[Finding, ...]:
    """Check a CA: key (if it is encrypted and no passphrase given: not), expiry, profile, CRL."""
    raise NotImplementedError


def worst(findings: Iterable[Finding]) -> Severity:
    """Return the highest severity; GOOD if there are no findings."""
    return max((finding.severity for finding in findings), default=Severity.GOOD)
