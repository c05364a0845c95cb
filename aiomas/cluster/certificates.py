"""The certificates of a run: who may belong to it, over TLS.

The driver has the authority.  It is made in memory for one run, and gone with it; or it is a
directory made by ``aiomas pki``, in whose index each certificate is then found.  Each host makes
its own key, sends a signing request to the driver, and gets a certificate back: a private key never
leaves the host that it was made on.

With the authority of a run, nobody else is let in.  With that of a directory, everybody is who has
a certificate of it.

Certificates are looked at when a connection is made, and not any more while it lasts.  They are
valid for `DAYS` days: in a run that lasts longer, no *new* connection can be made after that, which
is what a container that is restarted needs.  Such a run needs more *days* (365 at most).  They
begin 5 minutes in the past, for hosts whose clocks are behind.
"""

# ruff: noqa: PLC0415 - `pki` imports `cryptography`, which takes a tenth of a second.  Workers, and
# runs without TLS, need neither of them, so they are imported where they are used.

from __future__ import annotations

import contextlib
import datetime as dt
import logging
import os
import secrets
import shlex
import ssl
import stat
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

from aiomas.exceptions import ClusterError
from aiomas.tls import SSLCerts, make_ssl_client_context, make_ssl_server_context

if TYPE_CHECKING:
    from pki import authority
    from pki.store import Store

__all__ = [
    "DAYS",
    "DRIVER",
    "LOOPBACK",
    "PASSPHRASE",
    "Credentials",
    "RunAuthority",
    "contexts_for_driver",
    "driver_credentials",
    "make_key_and_request",
    "names_of",
    "write_credentials",
]

DAYS = 30
"""How long certificates of a run are valid."""
DRIVER = "driver"
"""The name of the driver: no host can have it."""
LOOPBACK = ("127.0.0.1", "localhost")
"""The addresses of a host that others need not reach."""
PASSPHRASE = "AIOMAS_PKI_PASSPHRASE"  # noqa: S105 - the name of a variable
"""The environment variable with the passphrase of an authority's key."""

_CA_NAME_LIMIT = 55
_log = logging.getLogger(__name__)


class Credentials(NamedTuple):
    """What one end of a connection needs for TLS, all of it as PEM."""

    key: bytes
    """Its private key."""
    certificate: bytes
    """What was signed for it."""
    trusted: bytes
    """The certificates of the authorities that it trusts."""
    crl: bytes | None = None
    """Their revocation list, if there is one."""


class RunAuthority:
    """Signs the certificates of a run: `temporary` or `of_directory` makes it, in the driver.

    Attributes:
        name: of the authority, the first part of all identities: ``spiffe://NAME/HOST``.
        days: how long what it signs is valid; less if the authority itself ends before.
    """

    def __init__(self, source: _Source, days: int) -> None:
        self._source = source
        self.name = source.name
        self.days = days

    @classmethod
    def temporary(cls, run: str, *, days: int = DAYS) -> RunAuthority:
        """Make an authority in memory; who has its key is this object alone.

        Args:
            run: the name of the run.  The authority's common name has a random part besides, so
                that those of two runs are never the same.
            days: how long the authority, and what it signs, is valid: 1 to 365.

        Raises:
            ClusterError: a parameter is bad.
        """
        from pki import authority

        name = run[:_CA_NAME_LIMIT]
        with _explained(f"the certificates of run {run!r}"):
            _check_days(days)
            # For some days, and handshakes take half the time that they would with P-384.
            made = authority.make_root(name, days=days, key_type="ec-p256")
            ready = authority.load_authority(made.certificate, made.key)
        return cls(_InMemory(ready), days)

    @classmethod
    def of_directory(
        cls, path: str | os.PathLike[str], passphrase: str | None = None, *, days: int = DAYS
    ) -> RunAuthority:
        """Use the authority in a directory that ``aiomas pki`` has made.

        It takes a fifth of a second if the key is encrypted, and up to 10 seconds if other
        processes use the directory; that is so for `sign`, too.

        Args:
            path: the directory; or the one that `bootstrap` was given, which has it as ``ca``.
            passphrase: of its key; by default, what is in the environment as
                ``AIOMAS_PKI_PASSPHRASE``, if the key is encrypted.
            days: how long what it signs is valid: 1 to 365.

        Raises:
            ClusterError: there is no authority, it has expired, its revocation list is stale; its
                key cannot be read or decrypted, or is open to others.
        """
        directory = Path(path)
        with _explained(f"pki={str(directory)!r}"):
            _check_days(days)
            source = _InDirectory(directory, passphrase)
            source.check(days)
        return cls(source, days)

    @property
    def trusted(self) -> bytes:
        """The certificates of the authorities that all hosts trust (PEM)."""
        return self._source.trusted()

    @property
    def crl(self) -> bytes | None:
        """The revocation list (PEM); ``None`` for an authority of one run, which needs none."""
        return self._source.crl()

    def sign(self, csr: bytes, host: str, addresses: Sequence[str]) -> bytes:
        """Return the certificate (PEM) for a request that a host has made.

        Args:
            csr: what `make_key_and_request` returned there.
            host: the name that the driver has for this host.
            addresses: the host names and IP addresses that it has to ask for.

        Raises:
            ClusterError: it asks for other names; or the authority does not permit these, or has
                expired.
        """
        if host == DRIVER:
            msg = (
                f"no host of a run can be called {DRIVER!r}, as the driver is: choose another name"
            )
            raise ClusterError(msg)
        return self._sign(csr, host, addresses)

    def _sign(self, csr: bytes, host: str, addresses: Sequence[str]) -> bytes:
        with _explained(f"the certificate of {host!r}"):
            _check_request(csr, self.name, host, addresses)
            return self._source.certify(csr, host, self.days)


class _Source(Protocol):
    """Where the key of an authority is."""

    @property
    def name(self) -> str: ...

    def trusted(self) -> bytes: ...

    def crl(self) -> bytes | None: ...

    def certify(self, csr: bytes, name: str, days: int) -> bytes: ...


class _InMemory:
    def __init__(self, ready: authority.Authority) -> None:
        self._ready = ready
        self.name = ready.name

    def trusted(self) -> bytes:
        return self._ready.certificate

    def crl(self) -> bytes | None:
        return None

    def certify(self, csr: bytes, name: str, days: int) -> bytes:
        from pki import authority

        return authority.sign(self._ready, csr, name=name, days=days)


class _InDirectory:
    """The store is locked for each certificate, not for the run: others need it, too."""

    def __init__(self, directory: Path, passphrase: str | None) -> None:
        self._store = _open_store(directory)
        self._passphrase = _passphrase_for(self._store, passphrase)
        # Decrypting a key takes long, on purpose.  It is done once.
        with self._store.signing(self._passphrase) as signer:
            self._ready = signer.authority
        self.name = self._ready.name

    def check(self, days: int) -> None:
        """Say now what certificates and handshakes would fail with later."""
        now = dt.datetime.now(dt.UTC)
        place = shlex.quote(str(self._store.directory))
        for what, end, command in (
            ("CA", self._ready.info.not_after, "rotate"),
            ("revocation list", self._store.crl_until(), "crl"),
        ):
            until = f"{end:%Y-%m-%d %H:%M} UTC"
            if end <= now:
                msg = (
                    f"the {what} was good until {until}, so that nobody would be let in now: "
                    f"`aiomas pki {command} --ca {place}` makes a new one"
                )
                raise ClusterError(msg)
            if end < now + dt.timedelta(days=days):
                _log.warning(
                    "The %s in %s is good until %s, which is less than %d days: after that, the "
                    "containers of this run make no new connections.  `aiomas pki %s --ca %s` "
                    "makes a new one, for clusters that are started then",
                    what,
                    self._store.directory,
                    until,
                    days,
                    command,
                    place,
                )

    def trusted(self) -> bytes:
        return self._store.trusted()

    def crl(self) -> bytes | None:
        return self._store.crl()

    def certify(self, csr: bytes, name: str, days: int) -> bytes:
        with self._store.signing(self._passphrase, ready=self._ready) as signer:
            return signer.certify(csr, name=name, days=days)


def names_of(address: str) -> tuple[str, ...]:
    """Return the names that the certificate of a host has which is dialled at *address*."""
    return LOOPBACK if address in LOOPBACK else (address,)


def make_key_and_request(host: str, addresses: Sequence[str] = LOOPBACK) -> tuple[bytes, bytes]:
    """Make the private key of this host, and the request for its certificate (both PEM).

    Args:
        host: the name that the driver has for this host, of 1 to 64 characters.
        addresses: the host names and IP addresses at which others reach its containers.

    Raises:
        ClusterError: *host* or an address is none that fits into a certificate.
    """
    from pki import authority

    with _explained(f"the certificate of {host!r}"):
        key = authority.make_key()
        return key, authority.make_request(host, authority.parse_names(addresses), key)


def write_credentials(
    directory: Path, key: bytes, certificate: bytes, trusted: bytes, crl: bytes | None = None
) -> SSLCerts:
    """Write what the containers of this host need for TLS, and return the names of the files.

    Only this user can read them (mode 0600, in a directory with mode 0700).  Files that are there
    are replaced.

    Args:
        directory: for these files alone; made if it is not there.
        key: the private key of this host (PEM).
        certificate: what the driver has signed for it (PEM).
        trusted: the certificates of the authorities (PEM).
        crl: their revocation list (PEM), if there is one.

    Raises:
        ClusterError: *directory* is no directory, or belongs to somebody else.
        OSError: something cannot be written.
    """
    directory = Path(directory)
    _make_private(directory)
    certs = SSLCerts(
        directory / "trusted.pem",
        directory / "certificate.pem",
        directory / "key.pem",
        None if crl is None else directory / "crl.pem",
    )
    for path, content in zip(certs, (trusted, certificate, key, crl), strict=False):
        _write_private(Path(path), content or b"")
    return certs


def driver_credentials(authority: RunAuthority, addresses: Sequence[str] = LOOPBACK) -> Credentials:
    """Make the driver's key, and sign for it; nothing of it is on the disk.

    Args:
        authority: of the run.
        addresses: the host names and IP addresses at which others reach the driver.

    Raises:
        ClusterError: as `make_key_and_request` and `RunAuthority.sign`.
    """
    key, csr = make_key_and_request(DRIVER, addresses)
    certificate = authority._sign(csr, DRIVER, addresses)  # noqa: SLF001 - `sign` is for hosts
    return Credentials(key, certificate, authority.trusted, authority.crl)


def contexts_for_driver(
    credentials: Credentials, directory: Path
) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Return the contexts for the driver's server socket and for its client sockets.

    Its key is on the disk for as long as OpenSSL reads it.

    Args:
        credentials: of the driver.
        directory: of the run, which others remove if we are killed meanwhile.

    Raises:
        OSError: the files cannot be written, or not be read again.
    """
    with tempfile.TemporaryDirectory(prefix="driver-tls-", dir=directory) as place:
        certs = write_credentials(Path(place), *credentials)
        return make_ssl_server_context(*certs), make_ssl_client_context(*certs)


# --- directories of `aiomas pki` ------------------------------------------------------------------


def _open_store(directory: Path) -> Store:
    from pki.store import Store, StoreError

    if not directory.is_dir():
        what = "it is no directory" if directory.exists() else "there is no such directory"
        msg = (
            f"{what}: name one that `aiomas pki init` has made, or none for a CA of this run alone"
        )
        raise ClusterError(msg)
    try:
        return Store(directory)
    except StoreError as exc:
        with contextlib.suppress(StoreError):
            return Store(directory / "ca")  # where `aiomas pki bootstrap` puts it
        msg = f"{exc}: `aiomas pki init {directory}` makes it"
        raise ClusterError(msg) from exc


def _passphrase_for(store: Store, passphrase: str | None) -> str | None:
    from pki import authority

    if passphrase is not None or not authority.is_encrypted(store.key()):
        return passphrase
    if found := os.environ.get(PASSPHRASE):
        return found
    msg = f"the key is encrypted: put its passphrase into the environment as {PASSPHRASE}"
    raise ClusterError(msg)


# --- details --------------------------------------------------------------------------------------


def _check_days(days: int) -> None:
    from pki import authority

    if not 1 <= days <= authority.DEVICE_DAYS:
        msg = f"days={days} cannot be: a certificate is valid for 1 to {authority.DEVICE_DAYS} days"
        raise ClusterError(msg)


def _check_request(csr: bytes, ca_name: str, host: str, addresses: Sequence[str]) -> None:
    """Fail if a request is for other names than those that its host has."""
    from pki import authority

    request, expected = authority.read_request(csr), authority.parse_names(addresses)
    names = request.names
    if (
        request.name != host
        or set(names.dns) != set(expected.dns)
        or set(names.ips) != set(expected.ips)
        or names.uris not in {(), (authority.identity(ca_name, host),)}
    ):
        msg = f"it was asked for as {request.name!r} with {names}, and not as that with {expected}"
        raise ClusterError(msg)


@contextlib.contextmanager
def _explained(what: str) -> Iterator[None]:
    """Let all errors of `pki` be of one kind, and say what they are about."""
    from pki.authority import PkiError

    try:
        yield
    except (ClusterError, PkiError, OSError) as exc:
        msg = f"{what}: {exc}"
        raise ClusterError(msg) from exc


def _make_private(directory: Path) -> None:
    with contextlib.suppress(FileExistsError):
        directory.mkdir(mode=0o700)
    found = directory.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
        msg = f"{directory} is no directory of this user, and no place for a private key: remove it"
        raise ClusterError(msg)
    directory.chmod(0o700)


def _write_private(path: Path, content: bytes) -> None:
    """Write a file that is whole, and nobody else's to read, from the moment it has its name."""
    unfinished = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        with open(os.open(unfinished, flags, 0o600), "wb") as file:  # noqa: PTH123 - a descriptor
            os.fchmod(file.fileno(), 0o600)  # even if the umask leaves less of it
            file.write(content)
        unfinished.replace(path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise
