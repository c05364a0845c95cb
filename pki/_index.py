"""What an authority has issued and revoked: the content of ``index.json``.

Values, and how they are written as JSON.  Knows neither files nor keys.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
from collections.abc import Collection
from typing import Any, Literal, Self

from pki import authority
from pki._files import StoreError

__all__ = [
    "Entry",
    "Generation",
    "Index",
    "Root",
    "Rotation",
    "Status",
    "generation_of",
    "now",
    "status_of",
]

VERSION = 1

Rotation = Literal["none", "switching", "overlap"]
"""``switching``: the new generation is complete, and its files are being put into place.
``overlap``: certificates of both generations are in use."""

Status = Literal["valid", "replaced", "expired", "revoked", "untrusted"]
"""``replaced``: it was renewed, and is as good as before until it expires or is revoked.
``untrusted``: a rotation was finished, and the CA that signed it is trusted no more."""


@dataclasses.dataclass(frozen=True, slots=True)
class Root:
    """With what the authority was made: the next generation is made with the same."""

    name: str
    key_type: authority.KeyType
    days: int
    permit_dns: tuple[str, ...] = ()
    permit_ips: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True)
class Generation:
    """One certificate of the authority itself."""

    fingerprint: str
    subject: str
    not_after: dt.datetime


@dataclasses.dataclass(frozen=True, slots=True)
class Entry:
    """One certificate that was issued."""

    serial: str
    """Hex, lower case, as `pki.authority.parse_serial` returns it."""
    name: str
    subject: str
    issuer: str
    """Fingerprint of the authority's certificate."""
    not_before: dt.datetime
    not_after: dt.datetime
    place: str | None = None
    """The file it was written to; relative to the directory above the authority, if it is below."""
    replaces: str | None = None
    """Serial of the certificate that this one renews."""
    revoked: dt.datetime | None = None
    reason: authority.Reason | None = None


@dataclasses.dataclass(slots=True)
class Index:
    """All that an authority has to remember."""

    root: Root
    generations: list[Generation]
    """The last one signs; the one before it is still trusted while a rotation lasts."""
    rotation: Rotation = "none"
    crl_number: int = 0
    issued: dict[str, Entry] = dataclasses.field(default_factory=dict)
    """By serial, the oldest first."""

    def replaced(self) -> set[str]:
        """Return the serials of all certificates that were renewed."""
        return {entry.replaces for entry in self.issued.values() if entry.replaces}

    def trusted(self) -> list[Generation]:
        """Return the generations that devices have to trust today."""
        return self.generations[-1:] if self.rotation == "none" else self.generations[-2:]

    def status(self, entry: Entry, at: dt.datetime) -> Status:
        """Return what a certificate is worth, to those who trust this authority today."""
        status = status_of(entry, self.replaced(), at)
        trusted = {generation.fingerprint for generation in self.trusted()}
        if status in {"valid", "replaced"} and entry.issuer not in trusted:
            return "untrusted"
        return status

    def revocations(self, generation: Generation, at: dt.datetime) -> list[authority.Revocation]:
        """Return what a revocation list of *generation* says.

        A certificate that expired a week ago is refused anyway, and is left out.
        """
        return [
            authority.Revocation(entry.serial, entry.revoked, entry.reason or "unspecified")
            for entry in self.issued.values()
            if entry.revoked is not None
            and entry.issuer == generation.fingerprint
            and entry.not_after + dt.timedelta(days=7) > at
        ]

    def to_json(self) -> bytes:
        """Return the content of the file."""
        data = {
            "version": VERSION,
            "root": dataclasses.asdict(self.root),
            "generations": [dataclasses.asdict(generation) for generation in self.generations],
            "rotation": self.rotation,
            "crl_number": self.crl_number,
            "issued": [dataclasses.asdict(entry) for entry in self.issued.values()],
        }
        text = json.dumps(data, indent=1, ensure_ascii=False, default=dt.datetime.isoformat)
        return f"{text}\n".encode()

    @classmethod
    def from_json(cls, data: bytes, where: object) -> Self:
        """Read what `to_json` made; *where* it comes from is for errors.

        Raises:
            StoreError: it is something else, or was made by a later version.
        """
        try:
            content = json.loads(data)
            version = content["version"]
            if version == VERSION:
                return cls._from_dict(content)
        except (ValueError, TypeError, KeyError, AttributeError) as exc:
            msg = f"{where} is damaged ({type(exc).__name__}: {exc}); take it from a backup"
            raise StoreError(msg) from exc
        msg = f"{where} has version {version}, this is for version {VERSION}"
        raise StoreError(msg)

    @classmethod
    def _from_dict(cls, content: dict[str, Any]) -> Self:
        root = content["root"]
        root |= {key: tuple(root[key]) for key in ("permit_dns", "permit_ips")}
        entries = [Entry(**_with_times(entry)) for entry in content["issued"]]
        return cls(
            root=Root(**root),
            generations=[Generation(**_with_times(item)) for item in content["generations"]],
            rotation=content["rotation"],
            crl_number=int(content["crl_number"]),
            issued={entry.serial: entry for entry in entries},
        )


def now() -> dt.datetime:
    """Return the time, as precisely as certificates do."""
    return dt.datetime.now(dt.UTC).replace(microsecond=0)


def generation_of(info: authority.CertificateInfo) -> Generation:
    """Return what is remembered of a certificate of the authority."""
    return Generation(info.fingerprint, info.subject, info.not_after)


def _with_times(fields: dict[str, Any]) -> dict[str, Any]:
    for key in ("not_before", "not_after", "revoked"):
        if fields.get(key) is not None:
            fields[key] = dt.datetime.fromisoformat(fields[key])
    return fields


def status_of(entry: Entry, replaced: Collection[str], at: dt.datetime) -> Status:
    """Return what *entry* is worth; *replaced* are the serials that were renewed."""
    if entry.revoked is not None:
        return "revoked"
    if entry.not_after <= at:
        return "expired"
    return "replaced" if entry.serial in replaced else "valid"
