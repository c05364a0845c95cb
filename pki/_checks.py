"""What ``check`` looks at: files and directories, each with what was found.

What makes a certificate good is decided in `pki.authority`; here is which files belong together,
and who may read them.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from pki import _files, authority
from pki._index import Entry, now, status_of
from pki._layout import BUNDLE, CERTIFICATE, CRL, INDEX, KEY, PREVIOUS
from pki._signer import listed, split_crl
from pki.authority import Finding, PkiError, Severity
from pki.store import Store, StoreError

__all__ = ["Checked", "Wanted", "check_path"]

SUFFIXES = {".pem", ".crt", ".cer", ".key", ".csr", ".crl"}


@dataclasses.dataclass(frozen=True, slots=True)
class Wanted:
    """What has to hold."""

    within: dt.timedelta
    """What expires in less than this needs renewal."""
    hosts: tuple[str, ...] = ()
    """By which each device's certificate must be reachable."""
    ca: bytes | None = None
    """What devices have to trust; by default, what lies beside their certificate."""
    crl: bytes | None = None
    """Likewise."""
    passphrase: str | None = None
    """Of the CA's key; without it, an encrypted key is not compared with its certificate."""


Found = tuple[bytes | None, bytes | None]
"""CAs and revocation lists."""


class Checked(NamedTuple):
    """A file, and what was found."""

    path: Path
    findings: tuple[Finding, ...]


def check_path(path: Path, wanted: Wanted) -> list[Checked]:
    """Check a file, or all that is in a directory.

    Raises:
        StoreError: there is nothing in the directory that could be checked.
        OSError: something cannot be read.
    """
    checked = list(_directory(path, wanted) if path.is_dir() else _alone(path, wanted))
    if not checked:
        msg = f"{path}: there is nothing to check in here"
        raise StoreError(msg)
    return checked


def _alone(path: Path, wanted: Wanted) -> Iterator[Checked]:
    yield from _file(path, wanted)
    key_file = path.with_suffix(".key")
    if key_file != path and key_file.is_file():
        yield Checked(key_file, tuple(_permissions(key_file)))


def _directory(directory: Path, wanted: Wanted, around: Found = (None, None)) -> Iterator[Checked]:
    if (directory / INDEX).is_file():
        yield from _authority(Store(directory, allow_readable_key=True), wanted)
        return
    around = _found_in(directory, around)
    children = sorted(path for path in directory.iterdir() if not path.name.startswith("."))
    found = False
    for path in children:
        if path.is_file() and path.suffix in SUFFIXES:
            found = True
            yield from _file(path, wanted, around)
    if found:
        yield from _permissions_of_directory(directory)
    for path in children:
        if path.is_dir() and not path.is_symlink():
            yield from _directory(path, wanted, around)


def _found_in(directory: Path, around: Found) -> Found:
    """Return the CAs and the revocation list in *directory*, or of an authority below it."""
    ca, crl = around
    for path in sorted(directory.glob(f"*/{INDEX}")):
        store = Store(path.parent, allow_readable_key=True)
        ca, crl = store.trusted(), store.crl()
    for name in (CERTIFICATE, BUNDLE):
        if (directory / name).is_file():
            ca = _files.read(directory / name)
    if (directory / CRL).is_file():
        crl = _files.read(directory / CRL)
    return ca, crl


def _file(path: Path, wanted: Wanted, around: Found = (None, None)) -> Iterator[Checked]:
    data = _files.read(path)
    ca, crl = _found_in(path.parent, around)
    wanted = dataclasses.replace(wanted, ca=wanted.ca or ca, crl=wanted.crl or crl)
    try:
        kind = authority.kind_of(data)
        if kind == "certificate":
            findings = _certificate(path, data, wanted)
        elif kind == "key":
            findings = _key(path, data)
        elif kind == "crl":
            findings = _crl(data, wanted)
        else:
            request = authority.read_request(data)
            findings = [Finding(Severity.GOOD, "profile", f"a request of {request.name}")]
    except PkiError as exc:
        findings = [Finding(Severity.BROKEN, "profile", str(exc))]
    yield Checked(path, tuple(findings))


def _certificate(path: Path, data: bytes, wanted: Wanted) -> list[Finding]:
    parts = authority.split(data)
    if authority.inspect(parts[0]).is_ca:
        return [
            finding for part in parts for finding in authority.check_ca(part, within=wanted.within)
        ]
    if wanted.ca is None:
        msg = f"there is no {CERTIFICATE} beside it to check it with: --cafile names one"
        return [Finding(Severity.BROKEN, "chain", msg)]
    key_file = path.with_suffix(".key")
    findings = authority.check(
        parts[0],
        wanted.ca,
        key=_files.read(key_file) if key_file.is_file() else None,
        hosts=wanted.hosts,
        crl=wanted.crl,
        within=wanted.within,
    )
    # Lists live shorter than certificates: when one has to be renewed is decided below.
    kept = [item for item in findings if item.topic != "crl" or item.severity is Severity.BROKEN]
    return kept + (_crl(wanted.crl, wanted) if wanted.crl and len(kept) < len(findings) else [])


def _key(path: Path, data: bytes) -> list[Finding]:
    findings = _permissions(path)
    if not authority.is_encrypted(data):
        authority.public_key(data)  # raises if it is damaged
    return findings


def _permissions(path: Path) -> list[Finding]:
    if _files.others_can_read(path):
        msg = f"others can read or change it: chmod 600 {path}"
        return [Finding(Severity.BROKEN, "permissions", msg)]
    return [Finding(Severity.GOOD, "permissions", "only its owner can read it")]


def _permissions_of_directory(directory: Path) -> Iterator[Checked]:
    mode = directory.stat().st_mode
    if mode & 0o022 and not mode & stat.S_ISVTX:
        msg = f"others can replace what is in it: chmod go-w {directory}"
        yield Checked(directory, (Finding(Severity.BROKEN, "permissions", msg),))


def _crl(data: bytes, wanted: Wanted) -> list[Finding]:
    findings = []
    parts = split_crl(data)
    if not parts:
        findings.append(Finding(Severity.BROKEN, "crl", "there is no revocation list in it"))
    if wanted.ca is not None:
        # While a rotation lasts, there is a list of each CA, and a device may trust one of them.
        issuers = {authority.inspect(one).subject for one in authority.split(wanted.ca)}
        parts = [part for part in parts if authority.read_crl(part).issuer in issuers] or parts
    for part in parts:
        info = authority.read_crl(part, wanted.ca)
        left = info.next_update - now()
        margin = min(wanted.within, (info.next_update - info.this_update) / 3)
        if left <= dt.timedelta(0):
            severity, text = Severity.BROKEN, "is stale since"
        elif left < margin:
            severity, text = Severity.RENEW, "will soon be stale:"
        else:
            severity, text = Severity.GOOD, "is good until"
        text = f"revocation list {info.number} {text} {info.next_update:%Y-%m-%d %H:%M} UTC"
        findings.append(Finding(severity, "crl", text))
    return findings


# --- a whole authority ----------------------------------------------------------------------------


def _authority(store: Store, wanted: Wanted) -> Iterator[Checked]:
    directory = store.directory
    wanted = dataclasses.replace(wanted, ca=store.trusted(), hosts=())
    certificate, key = _files.read(directory / CERTIFICATE), _files.read(directory / KEY)
    yield Checked(
        directory / CERTIFICATE,
        authority.check_ca(
            certificate, key=key, passphrase=wanted.passphrase, within=wanted.within
        ),
    )
    for path in (directory / KEY, directory / PREVIOUS / KEY):
        if path.exists():
            yield Checked(path, tuple(_permissions(path)))
    yield from _permissions_of_directory(directory)
    yield Checked(directory / CRL, tuple(_crl_of(store, wanted)))
    index, when = store.index(), now()
    replaced = index.replaced()
    for entry in index.issued.values():
        if status_of(entry, replaced, when) == "valid":
            yield Checked(store.issued_path(entry), tuple(_issued(store, entry, wanted)))


def _crl_of(store: Store, wanted: Wanted) -> list[Finding]:
    try:
        data = store.crl()
        findings = _crl(data, wanted)
    except (PkiError, OSError) as exc:
        return [Finding(Severity.BROKEN, "crl", str(exc))]
    index = store.index()
    known = {entry.serial for entry in listed(data)}
    revoked = [item for one in index.trusted() for item in index.revocations(one, now())]
    if missing := [item.serial for item in revoked if item.serial not in known]:
        msg = f"it lacks {', '.join(missing)}, which were revoked: write a new one with crl"
        findings.append(Finding(Severity.BROKEN, "crl", msg))
    return findings


def _issued(store: Store, entry: Entry, wanted: Wanted) -> list[Finding]:
    """Check the copy of what a device has, which tells that it is about to expire."""
    try:
        data = store.issued(entry)
        if authority.inspect(data).serial != entry.serial:
            msg = f"it is not the certificate that the index has for {entry.name}"
            return [Finding(Severity.BROKEN, "profile", msg)]
    except (PkiError, OSError) as exc:
        return [Finding(Severity.BROKEN, "profile", f"{entry.name}: {exc}")]
    findings = authority.check(data, wanted.ca or b"", within=wanted.within)
    return [
        dataclasses.replace(finding, text=f"{entry.name}: {finding.text}") for finding in findings
    ]
