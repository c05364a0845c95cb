"""The command for test deployments: bootstrap."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any, Literal, NamedTuple

import click
from click.core import ParameterSource

from pki import _files, authority
from pki import _terminal as terminal
from pki._index import Root, now
from pki._layout import CERTIFICATE, DEVICE_CERTIFICATE, DEVICE_KEY, INDEX, KEY
from pki._signer import Signer, split_crl
from pki._terminal import Command, Passphrase, Signing
from pki.authority import PkiError, Severity
from pki.store import Store

__all__ = ["commands"]

LOOPBACK = ("localhost", "127.0.0.1", "::1")
"""In every certificate of a test deployment: by these, a machine reaches itself."""

MARGIN = dt.timedelta(days=30)
"""What expires sooner is renewed; what lives for less than 90 days, in its last third."""

Done = Literal["made", "renewed", "kept"]


class Host(NamedTuple):
    """A machine of the deployment."""

    name: str
    directory: Path

    @property
    def certificate(self) -> Path:
        """Its certificate."""
        return self.directory / DEVICE_CERTIFICATE

    @property
    def key(self) -> Path:
        """Its key."""
        return self.directory / DEVICE_KEY

    @property
    def files(self) -> tuple[Path, Path, Path]:
        """What `SSLCerts` takes."""
        return self.directory / CERTIFICATE, self.certificate, self.key


@click.command(
    cls=Command,
    examples=("certs --hosts localhost", "certs --hosts node1,node2,10.0.0.3"),
)
@click.argument("directory", metavar="DIR", type=click.Path(path_type=Path, file_okay=False))
@click.option("--hosts", required=True, metavar="A,B,...", help="DNS names and IP addresses.")
@click.option("--name", help="Name of the CA, part of all identities.  [default: that of DIR]")
@terminal.key_type_option(authority.DEVICE_KEY_TYPE)
@terminal.device_days_option
@terminal.passphrase_options
@click.option(
    "--allow-readable-key", is_flag=True, help="Use keys that others than their owners can read."
)
@click.option("--force", is_flag=True, help="Replace files of hosts that this CA did not make.")
@terminal.json_option
def bootstrap(
    directory: Path,
    *,
    hosts: str,
    name: str | None,
    key_type: authority.KeyType,
    days: int,
    passphrase_file: Path | None,
    passphrase_env: str | None,
    allow_readable_key: bool,
    force: bool,
    as_json: bool,
) -> None:
    """Make a CA and the files of all hosts of a test deployment at once.

    DIR/ca is the CA, and DIR/HOST has ca.pem, device.pem and device.key of a host.  Every
    certificate is for localhost, too.  Once more with the same DIR, it changes nothing that is
    still good, renews what is about to expire, and adds what is missing.
    """
    places = _hosts(directory, hosts)
    passphrase = Passphrase(passphrase_file, passphrase_env)
    if not (directory / "ca" / INDEX).exists():
        authority.check_root(name or directory.resolve().name)
    _files.make_directory(directory)
    # All of it by one process: two at once would make two CAs.
    with _files.lock(directory, timeout=60):
        store = _store(directory, name, passphrase, allow_readable_key=allow_readable_key)
        with ExitStack() as stack:
            signer = _once(
                lambda: Signing(store.directory, passphrase, allow_readable_key).signer(), stack
            )
            done = {
                host: _provide(
                    store,
                    host,
                    signer,
                    _state(store, host, allow_readable_key=allow_readable_key),
                    key_type=key_type,
                    days=days,
                    force=force,
                )
                for host in places
            }
            if _crl_is_old(store):
                signer().publish()
    _warn_of_others(done, key_type=key_type, days=days)
    _report(directory, done, as_json=as_json)


def _warn_of_others(done: dict[Host, Done], *, key_type: authority.KeyType, days: int) -> None:
    """Say which hosts keep what is not as the options ask for."""
    ctx = click.get_current_context()
    asked = {
        name
        for name in ("key_type", "days")
        if ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE
    }
    for host, what in done.items():
        if what == "made":
            continue
        info = authority.inspect(_files.read(host.certificate))
        lasts = (info.not_after - info.not_before + dt.timedelta(seconds=1)).days
        others = []
        if "key_type" in asked and info.key != key_type:
            others.append(f"a key of the kind {info.key}")
        if "days" in asked and what == "kept" and lasts != days:
            others.append(f"a certificate for {lasts} days")
        if others:
            terminal.warn(f"{host.name} keeps {' and '.join(others)}: options are for what is new")


def _hosts(directory: Path, hosts: str) -> list[Host]:
    names = list(dict.fromkeys(host.strip() for host in hosts.split(",")))
    for name in names:
        authority.parse_names([name])
        authority.check_name(name)
        if name.lower() == "ca":
            msg = f"a host cannot be called {name!r}: that is the directory of the CA"
            raise PkiError(msg)
    return [Host(name, directory / name) for name in names]


def _store(
    directory: Path, name: str | None, passphrase: Passphrase, *, allow_readable_key: bool
) -> Store:
    ca = directory / "ca"
    if (ca / INDEX).exists():
        store = Store(ca, allow_readable_key=allow_readable_key)
        has = store.index().root.name
        if name not in {None, has}:
            msg = f"the CA in {ca} is called {has!r}, not {name!r}"
            raise PkiError(msg)
        if (ca / KEY).exists() and not authority.is_encrypted(store.key()):
            if passphrase != Passphrase(None, None):
                msg = (
                    f"the CA's key in {ca} is not encrypted, as the CA was made without a"
                    " passphrase: leave that out, or make another CA in another directory"
                )
                raise PkiError(msg)
            terminal.warn(f"the CA's key in {ca} is not encrypted: for tests only")
        return store
    secret = passphrase.given()
    if secret is None:
        terminal.warn(
            f"the CA's key in {ca} is not encrypted (--passphrase-file encrypts it): for tests only"
        )
    root = Root(name or directory.resolve().name, "ec-p384", authority.CA_DAYS)
    # What an interrupted run has left is not an authority yet.
    return Store.create(ca, root, passphrase=secret, force=True)


def _once(
    make: Callable[[], AbstractContextManager[Signer]], stack: ExitStack
) -> Callable[[], Signer]:
    """Load the key when it is needed for the first time, and keep it until *stack* ends."""
    made: list[Signer] = []

    def get() -> Signer:
        if not made:
            made.append(stack.enter_context(make()))
        return made[0]

    return get


def _provide(
    store: Store,
    host: Host,
    signer: Callable[[], Signer],
    state: Severity,
    *,
    key_type: authority.KeyType,
    days: int,
    force: bool,
) -> Done:
    if state is Severity.BROKEN:
        names = authority.parse_names([host.name, *LOOPBACK])
        replace = force or _is_ours(store, host)
        signer().issue(
            host.name, names, host.directory, key_type=key_type, days=days, replace=replace
        )
        return "made"
    if state is Severity.RENEW:
        signer().renew(host.certificate, days=days)
        return "renewed"
    if _files.read(host.directory / CERTIFICATE) != store.trusted():
        signer().update_trust(host.directory)
    return "kept"


def _state(store: Store, host: Host, *, allow_readable_key: bool) -> Severity:
    """Return whether the files of *host* are good, and if not, whether a renewal helps."""
    if not all(file.is_file() for file in host.files):
        return Severity.BROKEN
    certificate = _files.read(host.certificate)
    key = _files.read_private(host.key, allow_readable=allow_readable_key)
    try:
        info = authority.inspect(certificate)
    except PkiError:
        return Severity.BROKEN
    entry = store.index().issued.get(info.serial)
    if entry is None or entry.revoked is not None:
        return Severity.BROKEN
    margin = min(MARGIN, (info.not_after - info.not_before) / 3)
    trusted = store.trusted()
    findings = authority.check(certificate, trusted, key=key, hosts=[host.name], within=margin)
    serious = [item for item in findings if item.topic != "expiry"]
    if authority.worst(serious) is Severity.GOOD and authority.worst(findings) > Severity.GOOD:
        return Severity.RENEW  # even if it has expired: the key is as good as before
    return authority.worst(findings)


def _is_ours(store: Store, host: Host) -> bool:
    """Whether the files of *host*, good or not, were made here, and may be replaced."""
    places = {store.place(entry) for entry in store.index().issued.values()}
    return host.certificate.resolve() in places


def _crl_is_old(store: Store) -> bool:
    for part in split_crl(store.crl()):
        info = authority.read_crl(part)
        if info.next_update - now() < min(MARGIN, (info.next_update - info.this_update) / 3):
            return True
    return False


def _report(directory: Path, done: dict[Host, Done], *, as_json: bool) -> None:
    first = next(iter(done))
    arguments = ", ".join(json.dumps(str(file), ensure_ascii=False) for file in first.files)
    line = f"certs = aiomas.SSLCerts({arguments})"
    rows = []
    for host, what in done.items():
        info = authority.inspect(_files.read(host.certificate))
        rows.append((f"{host.directory}/", what, terminal.day(info.not_after), str(info.names)))
    data: dict[str, Any] = {
        "ca": str(directory / "ca"),
        "hosts": {
            host.name: {
                "done": what,
                **dict(zip(("cafile", "certfile", "keyfile"), map(str, host.files), strict=True)),
            }
            for host, what in done.items()
        },
        "python": line,
    }
    files = terminal.table(("files", "done", "until", "names"), rows)
    terminal.report(data, f"{files}\n\nOn {first.name}:\n\n    {line}", as_json=as_json)


commands = (bootstrap,)
