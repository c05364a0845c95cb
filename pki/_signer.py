"""What an authority does while its key is loaded and nobody else can change its directory.

Each change is logged first, then in the index, and only then in a file that somebody may take away:
see `pki.store` about what a crash between two steps leaves.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pki import _files, authority
from pki._files import NewFile, StoreError
from pki._index import Entry, Index, generation_of, now, status_of
from pki._layout import BUNDLE, CERTIFICATE, CRL, DEVICE_CERTIFICATE, DEVICE_KEY, KEY, NEXT
from pki.authority import PkiError

if TYPE_CHECKING:
    from pki.store import Store

__all__ = ["Signer", "listed", "split_crl"]


class Signer:
    """An authority whose key is loaded; `Store.signing` makes it."""

    def __init__(
        self,
        store: Store,
        index: Index,
        ready: authority.Authority,
        previous: authority.Authority | None,
    ) -> None:
        self.store = store
        self.index = index
        self.authority = ready
        """The authority itself, for :meth:`Store.signing`."""
        self._previous = previous

    # --- certificates -----------------------------------------------------------------------------

    def sign(
        self,
        csr: bytes,
        out: Path,
        *,
        name: str | None = None,
        days: int = authority.DEVICE_DAYS,
        replace: bool = False,
    ) -> Entry:
        """Sign a request, and write the certificate into the file *out*."""
        certificate = self._signed(csr, name, days)
        self._deny_own_files(out)
        _must_be_free([out], replace=replace)
        _must_be_writable(out.parent)
        entry = self._record("sign", certificate, out)
        _files.write(out, certificate, replace=replace, keep_owner=False)
        return entry

    def certify(
        self, csr: bytes, *, name: str | None = None, days: int = authority.DEVICE_DAYS
    ) -> bytes:
        """Sign a request, and return the certificate (PEM): for who writes no file with it."""
        certificate = self._signed(csr, name, days)
        self._record("sign", certificate, None)
        return certificate

    def _signed(self, csr: bytes, name: str | None, days: int) -> bytes:
        self._deny_compromised(authority.read_request(csr).key_fingerprint)
        return authority.sign(self.authority, csr, name=name, days=days)

    def issue(
        self,
        name: str,
        names: authority.Names,
        directory: Path,
        *,
        key_type: authority.KeyType = authority.DEVICE_KEY_TYPE,
        days: int = authority.DEVICE_DAYS,
        replace: bool = False,
    ) -> Entry:
        """Write ``ca.pem``, ``device.pem`` and ``device.key`` for a machine into *directory*."""
        made = authority.issue(self.authority, name, names, key_type=key_type, days=days)
        out = directory / DEVICE_CERTIFICATE
        self._deny_own_files(out)
        files = [
            NewFile(directory / CERTIFICATE, self.store.trusted()),
            NewFile(directory / DEVICE_KEY, made.key, private=True),
            NewFile(out, made.certificate),
        ]
        _must_be_free([file.path for file in files], replace=replace)
        _files.make_directory(directory)
        _must_be_writable(directory)
        entry = self._record("issue", made.certificate, out)
        _files.write_together(files, replace=replace, keep_owner=False)
        return entry

    def renew(
        self,
        file: Path,
        *,
        out: Path | None = None,
        new_key: bool = False,
        days: int = authority.DEVICE_DAYS,
        replace: bool = False,
    ) -> Entry:
        """Replace the certificate in *file* by a new one for the same names.

        Args:
            file: a certificate of this authority, of the current or the former generation.
            out: write to this file instead, and leave *file* as it is.
            new_key: make a new key, too, and replace the one that lies beside *file*.
            days: how long the new certificate is valid.
            replace: whether *out* may exist; only a certificate is replaced.

        Raises:
            FileExistsError: *out*, or a key beside it, is there and *replace* is false.
            StoreError: the certificate was revoked, or there is no key beside *file*.
        """
        old = _files.read(file)
        info = authority.inspect(old)
        known = self.index.issued.get(info.serial)
        if known is not None and known.revoked is not None:
            msg = f"{file} was revoked, and is not renewed: make a new one for {info.name}"
            raise StoreError(msg)
        if not new_key:
            self._deny_compromised(info.key_fingerprint)
        place = out or file
        self._deny_own_files(place)
        key = b""
        if new_key:
            key_file = place.with_suffix(".key")
            if not key_file.is_file():
                msg = f"{key_file} is not there: a new key is made only beside the old one"
                raise StoreError(msg)
            _files.make_directory(place.parent)
            key = authority.make_key(_key_type(info.key))
        if out is not None:
            _must_be_free([out, *([key_file] if new_key else [])], replace=replace)
            _must_be_certificate(out)
        certificate = authority.renew(
            self.authority,
            old,
            former=self._former(),
            public_key=authority.public_key(key) if new_key else None,
            days=days,
        )
        _must_be_writable(place.parent)
        # What is written elsewhere belongs where the old one is, and replaces that one some day.
        home = self.store.place(known) if out is not None and known is not None else None
        home = home if home is not None and home.is_file() else place
        entry = self._record("renew", certificate, home, replaces=info.serial)
        files = [NewFile(place, certificate)]
        if new_key:
            files.insert(0, NewFile(key_file, key, private=True))
        _files.write_together(files, replace=True, keep_owner=out is None)
        self.update_trust(place.parent)
        return entry

    def update_trust(self, directory: Path) -> bool:
        """Bring a device's ``ca.pem`` up to date if there is one; return whether it was not."""
        path = directory / CERTIFICATE
        trusted = self.store.trusted()
        if not path.is_file() or _files.read(path) == trusted:
            return False
        known = {generation.fingerprint for generation in self.index.generations}
        try:
            held = {
                authority.inspect(part).fingerprint for part in authority.split(_files.read(path))
            }
        except PkiError:
            return False
        if not held <= known:  # somebody's choice: not ours to change
            return False
        _files.write(path, trusted, replace=True)
        return True

    def _former(self) -> bytes:
        return self._previous.certificate if self._previous else b""

    def _deny_own_files(self, out: Path) -> None:
        own = self.store.directory.resolve()
        if own in [out.resolve().parent, *out.resolve().parent.parents]:
            msg = f"{out} is in the authority's own directory: write devices' files elsewhere"
            raise StoreError(msg)

    def _deny_compromised(self, key_fingerprint: str) -> None:
        for entry in self.store.revoked_for(key_fingerprint):
            if entry.reason == "keyCompromise":
                msg = (
                    f"the key was revoked as compromised, with certificate {entry.serial}"
                    f" of {entry.name}: make a new key"
                )
                raise StoreError(msg)

    def _record(
        self, action: str, certificate: bytes, place: Path | None, *, replaces: str | None = None
    ) -> Entry:
        info = authority.inspect(certificate)
        above = self.store.directory.resolve().parent
        place = place and place.resolve()
        if place and place.is_relative_to(above):
            place = place.relative_to(above)
        entry = Entry(
            serial=info.serial,
            name=info.name,
            subject=info.subject,
            issuer=self.authority.info.fingerprint,
            not_before=info.not_before,
            not_after=info.not_after,
            place=None if place is None else str(place),
            replaces=replaces,
        )
        _files.write(self.store.issued_path(entry), certificate)
        self.store.log(action, entry.serial, entry.subject)
        self.index.issued[entry.serial] = entry
        self.store.save(self.index)
        return entry

    # --- revocation -------------------------------------------------------------------------------

    def revoke(
        self,
        entries: Iterable[Entry],
        *,
        reason: authority.Reason = "unspecified",
        days: int = authority.CRL_DAYS,
    ) -> tuple[Entry, ...]:
        """Revoke certificates and write a new revocation list; return those that were not yet.

        Args:
            entries: what `Store.find` has found.
            reason: why; it is part of the list. With ``keyCompromise``, all certificates for the
                same keys are revoked, too, and those that were revoked get this reason.
            days: how long the list is valid.
        """
        when = now()
        revoked = []
        if reason == "keyCompromise":
            entries = self._with_same_keys(entries)
        for entry in entries:
            known = self.index.issued[entry.serial]
            worse = reason == "keyCompromise" and known.reason != reason
            if known.revoked is None or worse:
                new = dataclasses.replace(entry, revoked=known.revoked or when, reason=reason)
                self.store.log("revoke", entry.serial, entry.subject, reason=reason)
                self.index.issued[entry.serial] = new
                revoked.append(new)
        self.publish(days=days)
        return tuple(revoked)

    def _with_same_keys(self, entries: Iterable[Entry]) -> list[Entry]:
        found = {entry.serial: entry for entry in entries}
        keys = {self._key_of(entry) for entry in found.values()} - {None}
        for entry in self.index.issued.values():
            if self._key_of(entry) in keys:
                found.setdefault(entry.serial, entry)
        return list(found.values())

    def _key_of(self, entry: Entry) -> str | None:
        """Return the SHA-256 of a certificate's key; None if our copy is gone or damaged."""
        with contextlib.suppress(OSError, PkiError):
            return authority.inspect(self.store.issued(entry)).key_fingerprint
        return None

    def publish(self, *, days: int = authority.CRL_DAYS) -> None:
        """Write a new revocation list, valid for *days*."""
        self.index.crl_number += 1
        # The number first: one that is left out does no harm, one that is there twice does.
        self.store.save(self.index)
        info = self.authority.info
        self.store.log("crl", "", info.subject, number=self.index.crl_number)
        _files.write(self.store.directory / CRL, self._make_crl(days), replace=True)

    def settle(self) -> None:
        """Write a new revocation list if the one there is not whole, as after a crash."""
        expected = {
            entry.serial
            for generation in self.index.trusted()
            for entry in self.index.revocations(generation, now())
        }
        try:
            crl = self.store.crl()
            complete = len(split_crl(crl)) == len(self.index.trusted())
            complete = complete and expected <= {entry.serial for entry in listed(crl)}
        except (FileNotFoundError, PkiError):
            complete = False
        if not complete:
            self.publish()

    def _make_crl(self, days: int) -> bytes:
        signers = [self.authority, *([self._previous] if self._previous else [])]
        return b"".join(
            authority.make_crl(
                ready,
                self.index.revocations(generation_of(ready.info), now()),
                number=self.index.crl_number,
                days=days,
            )
            for ready in signers
        )

    # --- generations ------------------------------------------------------------------------------

    def rotate(
        self,
        *,
        key_type: authority.KeyType | None = None,
        days: int | None = None,
        passphrase: str | None = None,
    ) -> None:
        """Make a new generation of the authority, which signs from now on.

        What the former one has signed stays good for those who trust ``ca-bundle.pem``, until
        `finish`.

        Args:
            key_type: of the new key; that of the old one by default.
            days: how long the new certificate is valid; as long as the old one by default.
            passphrase: encrypts the new key; the one that the old key has.

        Raises:
            StoreError: the last rotation is not finished.
        """
        if self.index.rotation != "none":
            msg = "the last rotation is not finished: rotate --finish ends it"
            raise StoreError(msg)
        root = self.index.root
        root = dataclasses.replace(
            root, key_type=key_type or root.key_type, days=root.days if days is None else days
        )
        made = authority.make_root(
            root.name,
            key_type=root.key_type,
            days=root.days,
            permit_dns=root.permit_dns,
            permit_ips=root.permit_ips,
            passphrase=passphrase,
        )
        self._previous = self.authority
        self.authority = authority.load_authority(made.certificate, made.key, passphrase)
        info = self.authority.info
        self.index.root = root
        self.index.generations.append(generation_of(info))
        self.index.crl_number += 1
        self.index.rotation = "switching"
        folder = self.store.directory / NEXT
        _files.make_directory(folder)
        bundle = authority.bundle(made.certificate, self._previous.certificate)
        files = [
            NewFile(folder / KEY, made.key, private=True),
            NewFile(folder / CERTIFICATE, made.certificate),
            NewFile(folder / BUNDLE, bundle),
            NewFile(folder / CRL, self._make_crl(authority.CRL_DAYS)),
        ]
        _files.write_together(files)
        self.store.log("rotate", info.serial, info.subject)
        self.store.save(self.index)  # from here on there is no way back
        self.store.switch(self.index)

    def finish(self, *, force: bool = False) -> None:
        """End the rotation: the former generation is trusted no more, and its key is removed.

        Args:
            force: even if certificates that it has signed are in use.

        Raises:
            StoreError: there is no rotation, or certificates of the former generation are in use.
        """
        if self.index.rotation != "overlap" or self._previous is None:
            msg = "there is no rotation to finish"
            raise StoreError(msg)
        former = self._previous.info
        using = self.using_former()
        if using and not force:
            names = ", ".join(sorted({entry.name for entry in using}))
            msg = f"the former generation is in use by {names}: renew these first (or --force)"
            raise StoreError(msg)
        self.store.log("rotate --finish", former.serial, former.subject)
        self._previous = None
        self.index.rotation = "none"
        self.publish()
        self.store.forget_previous()

    def using_former(self) -> Sequence[Entry]:
        """Return the certificates of a former generation that nothing has replaced yet."""
        current = self.index.generations[-1].fingerprint
        replaced, when = self.index.replaced(), now()
        return [
            entry
            for entry in self.index.issued.values()
            if entry.issuer != current and status_of(entry, replaced, when) == "valid"
        ]


def listed(crl: bytes) -> list[authority.Revocation]:
    """Return what the revocation lists in a file (PEM, any number) say together."""
    return [entry for part in split_crl(crl) for entry in authority.read_crl(part).revoked]


def split_crl(crl: bytes) -> list[bytes]:
    """Return the revocation lists of a file one by one (PEM)."""
    begin = b"-----BEGIN X509 CRL-----"
    return [begin + part for part in crl.split(begin)[1:]]


def _key_type(described: str) -> authority.KeyType:
    for key_type in authority.KEY_TYPES:
        if key_type == described:
            return key_type
    return authority.DEVICE_KEY_TYPE


def _must_be_writable(directory: Path) -> None:
    """Fail before anything is issued that could not be written down."""
    if not directory.is_dir():
        msg = f"{directory} is no directory: make it first"
        raise StoreError(msg)
    if not os.access(directory, os.W_OK | os.X_OK):
        msg = f"{directory} cannot be written to"
        raise StoreError(msg)


def _must_be_certificate(path: Path) -> None:
    """Fail if there is something else at *path*, such as a key that nobody has twice."""
    with contextlib.suppress(FileNotFoundError, PkiError):
        if authority.kind_of(_files.read(path)) == "certificate":
            return
    if path.exists():
        msg = f"{path} is no certificate, and is not replaced by one"
        raise StoreError(msg)


def _must_be_free(paths: Iterable[Path], *, replace: bool) -> None:
    """Fail before anything is issued that could not be written down."""
    for path in paths:
        if os.path.lexists(path) and not replace:
            msg = f"{path} is there already (--force replaces it)"
            raise FileExistsError(msg)
        _files.check_replaceable(path)
