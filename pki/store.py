"""A certificate authority in a directory: its key, what it issued, and what it revoked.

A `Store` is the directory; a `Signer` is the authority while its key is loaded and nobody else can
change the directory.  What certificates contain is decided in `pki.authority`; nothing here asks
questions or prints.

The order in which things are written makes up for a crash between any two of them.  A certificate
is in ``issued/`` and in the index before anybody gets it, so that it can always be revoked.  A
revocation is in the index first, and the next use of the key writes the list that lacks it.  A
change of generations is prepared in ``next/`` and recorded in the index; from then on, whoever
locks the directory next completes it.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import getpass
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from pki import _files, authority
from pki._files import StoreError
from pki._index import Entry, Generation, Index, Root, Status, generation_of, now, status_of
from pki._layout import BUNDLE, CERTIFICATE, CRL, INDEX, ISSUED, KEY, LOG, NEXT, PREVIOUS
from pki._signer import Signer, split_crl
from pki.authority import PkiError

__all__ = [
    "Entry",
    "Generation",
    "Index",
    "Root",
    "Signer",
    "Status",
    "Store",
    "StoreError",
    "status_of",
]

LOCK_TIMEOUT = 10.0
"""Seconds to wait for another process that changes the same directory."""


class Store:
    """The directory of an authority.

    Args:
        directory: one that `create` has made.
        allow_readable_key: load the key even if others than its owner can read it.
        lock_timeout: how long to wait for another process that changes the directory, in seconds.

    Raises:
        StoreError: there is no authority in *directory*.
    """

    def __init__(
        self,
        directory: Path,
        *,
        allow_readable_key: bool = False,
        lock_timeout: float = LOCK_TIMEOUT,
    ) -> None:
        if not (directory / INDEX).is_file():
            what = "was not completed" if (directory / KEY).exists() else "is not there"
            msg = f"the authority in {directory} {what}"
            raise StoreError(msg)
        self.directory = directory
        self.lock_timeout = lock_timeout
        self._allow_readable_key = allow_readable_key

    @classmethod
    def create(
        cls,
        directory: Path,
        root: Root,
        *,
        passphrase: str | None = None,
        crl_days: int = authority.CRL_DAYS,
        force: bool = False,
    ) -> Store:
        """Make an authority in *directory*, which may exist already.

        Args:
            directory: where to; made with mode 0700 if it is not there; else it has that
                mode, or gets it if it is empty.
            root: its name and kind.
            passphrase: encrypts the key.
            crl_days: how long the first, empty revocation list is valid.
            force: if there is an authority already, it goes into a directory ``replaced-...``
                within, and is not lost.

        Raises:
            FileExistsError: there is an authority, or a part of one, and *force* is false.
            PkiError: a parameter is bad.
            StoreError: others can look into *directory*.
        """
        made = authority.make_root(
            root.name,
            key_type=root.key_type,
            days=root.days,
            permit_dns=root.permit_dns,
            permit_ips=root.permit_ips,
            passphrase=passphrase,
        )
        ready = authority.load_authority(made.certificate, made.key, passphrase)
        index = Index(root, [generation_of(ready.info)], crl_number=1)
        crl = authority.make_crl(ready, (), number=1, days=crl_days)
        _files.make_own_directory(directory)
        with _files.lock(directory, timeout=LOCK_TIMEOUT):
            _files.remove_unfinished(directory)
            _make_room(directory, force=force)
            _files.make_directory(directory / ISSUED)
            _files.write(directory / KEY, made.key, private=True)
            _files.write(directory / CERTIFICATE, made.certificate)
            _files.write(directory / CRL, crl)
            _log(directory / LOG, "init", ready.info.serial, ready.info.subject)
            # Without an index there is no authority: this comes last.
            _files.write(directory / INDEX, index.to_json(), private=True)
        return cls(directory)

    # --- looking ----------------------------------------------------------------------------------

    def index(self) -> Index:
        """Return what was issued and revoked up to now."""
        path = self.directory / INDEX
        return Index.from_json(_files.read(path), path)

    def certificate(self) -> bytes:
        """Return the certificate with which this authority signs today (PEM)."""
        path = self.directory / CERTIFICATE
        try:
            return _files.read(path)
        except FileNotFoundError as exc:
            msg = f"{path} is not there: take it from a backup, or from any device"
            raise StoreError(msg) from exc

    def trusted(self) -> bytes:
        """Return what devices have to trust (PEM): two certificates while a rotation lasts."""
        with contextlib.suppress(FileNotFoundError):
            return _files.read(self.directory / BUNDLE)
        return self.certificate()

    def crl(self) -> bytes:
        """Return the revocation list (PEM): one for each certificate that is trusted."""
        return _files.read(self.directory / CRL)

    def crl_until(self) -> dt.datetime:
        """Return until when the revocation list is good: who checks a stale one lets nobody in.

        Raises:
            PkiError: there is no list in the file, or something else.
        """
        lists = split_crl(self.crl())
        if not lists:
            msg = f"{self.directory / CRL} has no revocation list in it: make one with `crl`"
            raise PkiError(msg)
        return min(authority.read_crl(part).next_update for part in lists)

    def key(self) -> bytes:
        """Return the private key as it is on the disk (PEM).

        Raises:
            StoreError: others can read it.
        """
        path = self.directory / KEY
        return _files.read_private(path, allow_readable=self._allow_readable_key)

    def issued(self, entry: Entry) -> bytes:
        """Return a certificate that was issued (PEM)."""
        return _files.read(self.issued_path(entry))

    def issued_path(self, entry: Entry) -> Path:
        """Return where the authority's copy of a certificate lies."""
        return self.directory / ISSUED / f"{entry.serial}.pem"

    def place(self, entry: Entry) -> Path | None:
        """Return the file that a certificate was written to, if that is known."""
        return None if entry.place is None else self.directory.resolve().parent / entry.place

    def revoked_for(self, fingerprint: str) -> tuple[Entry, ...]:
        """Return the certificates for a key, whose SHA-256 is *fingerprint*, that were revoked."""
        return tuple(
            entry
            for entry in self.index().issued.values()
            if entry.revoked is not None
            and authority.inspect(self.issued(entry)).key_fingerprint == fingerprint
        )

    def find(self, what: str) -> tuple[Entry, ...]:
        """Return the certificates that *what* means: a device's name, a serial, or a file.

        Raises:
            StoreError: there is none, or *what* can be understood in two ways.
        """
        index = self.index()
        named = tuple(entry for entry in index.issued.values() if entry.name == what)
        file = Path(what)
        if named and file.is_file():
            msg = f"{what} is the name of a device and of a file: write ./{what} for the file"
            raise StoreError(msg)
        if named:
            return named
        if file.is_file():
            serial = authority.inspect(_files.read(file)).serial
        else:
            try:
                serial = authority.parse_serial(what)
            except PkiError:
                serial = ""
        if serial in index.issued:
            return (index.issued[serial],)
        msg = f"{what}: this authority has issued no certificate of that name, serial or file"
        raise StoreError(msg)

    # --- changing ---------------------------------------------------------------------------------

    @contextlib.contextmanager
    def signing(
        self, passphrase: str | None = None, *, ready: authority.Authority | None = None
    ) -> Iterator[Signer]:
        """Load the key, and keep other processes from changing the directory meanwhile.

        Args:
            passphrase: of the key, if that is encrypted.
            ready: the `Signer.authority` of an earlier time.  Its key, which takes a tenth of a
                second to decrypt, is loaded again only if there is a new generation since.

        Raises:
            StoreError: another process is at it for too long, or others can read the key.
            PkiError: the passphrase is wrong or missing.
        """
        with _files.lock(self.directory, timeout=self.lock_timeout):
            self._clean_up()
            index = self.index()
            certificate = self.certificate()
            if ready is None or ready.info != authority.inspect(certificate):
                ready = authority.load_authority(certificate, self.key(), passphrase)
            if ready.info.fingerprint != index.generations[-1].fingerprint:
                msg = f"{self.directory / CERTIFICATE} is not the one that {INDEX} knows"
                raise StoreError(msg)
            previous = self._previous(index, passphrase)
            signer = Signer(self, index, ready, previous)
            signer.settle()
            yield signer

    def _previous(self, index: Index, passphrase: str | None) -> authority.Authority | None:
        if index.rotation != "overlap":
            return None
        folder = self.directory / PREVIOUS
        key = _files.read_private(folder / KEY, allow_readable=self._allow_readable_key)
        return authority.load_authority(_files.read(folder / CERTIFICATE), key, passphrase)

    def _clean_up(self) -> None:
        """Complete or forget what a process that was killed has begun."""
        for folder in (".", ISSUED, NEXT, PREVIOUS):
            _files.remove_unfinished(self.directory / folder)
        index = self.index()
        if index.rotation == "switching":
            self.switch(index)
        elif (self.directory / NEXT).exists():
            shutil.rmtree(self.directory / NEXT)
        if index.rotation == "none":
            self.forget_previous()

    def log(self, action: str, serial: str, subject: str, **more: object) -> None:
        """Append to the audit log, *before* the change: it may say too much, never too little."""
        _log(self.directory / LOG, action, serial, subject, **more)

    def save(self, index: Index) -> None:
        """Write the index: for a `Signer`, which holds the lock."""
        _files.write(self.directory / INDEX, index.to_json(), private=True, replace=True)

    def switch(self, index: Index) -> None:
        """Put the next generation into the place of the current one: for a `Signer`.

        May be repeated, if it was not completed.
        """
        new, previous = self.directory / NEXT, self.directory / PREVIOUS
        _files.make_directory(previous)
        fingerprint = authority.inspect(self.certificate()).fingerprint
        if fingerprint != index.generations[-1].fingerprint:  # the current ones are still the old
            if (self.directory / KEY).exists() and (new / KEY).exists():
                key = _files.read(self.directory / KEY)
                _files.write(previous / KEY, key, private=True, replace=True)
            _files.write(previous / CERTIFICATE, self.certificate(), replace=True)
            _files.write(self.directory / BUNDLE, _files.read(new / BUNDLE), replace=True)
            _files.write(self.directory / CRL, _files.read(new / CRL), replace=True)
            with contextlib.suppress(FileNotFoundError):  # it was moved, then we were killed
                (new / KEY).replace(self.directory / KEY)
            (new / CERTIFICATE).replace(self.directory / CERTIFICATE)
        shutil.rmtree(new, ignore_errors=True)
        index.rotation = "overlap"
        self.save(index)

    def forget_previous(self) -> None:
        """Remove what is left of the former generation: for a `Signer`."""
        (self.directory / BUNDLE).unlink(missing_ok=True)
        if (self.directory / PREVIOUS).exists():
            shutil.rmtree(self.directory / PREVIOUS)


def _make_room(directory: Path, *, force: bool) -> None:
    """Put an authority that is there aside, if that is what the user wants."""
    mine = (INDEX, KEY, CERTIFICATE, CRL, BUNDLE, LOG, ISSUED, PREVIOUS, NEXT)
    there = [directory / name for name in mine if os.path.lexists(directory / name)]
    if not there:
        return
    if not force:
        msg = f"{there[0]} is there already (--force puts all of that authority aside)"
        raise FileExistsError(msg)
    aside = directory / f"replaced-{now():%Y%m%dT%H%M%SZ}-{os.urandom(2).hex()}"
    aside.mkdir(mode=0o700)
    for path in there:
        path.rename(aside / path.name)


def _log(path: Path, action: str, serial: str, subject: str, **more: object) -> None:
    line = {"time": now().isoformat(), "action": action, "serial": serial, "subject": subject}
    text = json.dumps({**line, **more, "by": _user()}, ensure_ascii=False)
    _files.append_line(path, text)


def _user() -> str:
    with contextlib.suppress(OSError, KeyError):
        return os.environ.get("SUDO_USER") or getpass.getuser()
    return str(os.getuid())
