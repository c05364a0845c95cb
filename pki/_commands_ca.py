"""Commands on the side of the CA: init, sign, issue, renew, revoke, crl and rotate."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from pki import _files, authority
from pki import _terminal as terminal
from pki._index import Entry, Index, Root, now, status_of
from pki._layout import BUNDLE, CERTIFICATE, CRL, DEVICE_CERTIFICATE, KEY
from pki._signer import split_crl
from pki._terminal import Command, Passphrase, Signing
from pki.authority import PkiError
from pki.store import Store, StoreError

__all__ = ["commands", "described", "find"]


@click.command(
    cls=Command,
    examples=(
        "ca --name plant",
        "ca --name plant --permit-dns plant.example --permit-ip 10.0.0.0/8",
        "ca --name test --no-passphrase",
    ),
)
@click.argument("directory", metavar="DIR", type=click.Path(path_type=Path, file_okay=False))
@click.option("--name", help="Name of the CA, part of all identities.  [default: that of DIR]")
@terminal.key_type_option("ec-p384")
@terminal.days_option(authority.CA_DAYS, "the CA's certificate is valid", longest=7300)
@terminal.days_option(
    authority.CRL_DAYS,
    "the revocation list is valid",
    longest=authority.CA_DAYS,
    name="--crl-days",
)
@click.option("--permit-dns", multiple=True, metavar="NAME", help="Allow only names below NAME.")
@click.option("--permit-ip", multiple=True, metavar="NETWORK", help="Allow only these addresses.")
@terminal.passphrase_options
@click.option("--no-passphrase", is_flag=True, help="Do not encrypt the key: for tests only.")
@click.option("--force", is_flag=True, help="Put a CA that is there aside.")
@terminal.json_option
def init(
    directory: Path,
    *,
    name: str | None,
    key_type: authority.KeyType,
    days: int,
    crl_days: int,
    permit_dns: Sequence[str],
    permit_ip: Sequence[str],
    passphrase_file: Path | None,
    passphrase_env: str | None,
    no_passphrase: bool,
    force: bool,
    as_json: bool,
) -> None:
    """Make a certificate authority in DIR.

    Do it on a machine that is kept off the network.  Whoever has DIR and the passphrase can let
    any machine into your system.
    """
    root = Root(
        name or directory.resolve().name, key_type, days, tuple(permit_dns), tuple(permit_ip)
    )
    # What cannot work is said before anybody types a passphrase.
    authority.check_root(root.name, root.permit_dns, root.permit_ips)
    if (directory / KEY).exists() and not force:
        msg = f"{directory / KEY} is there already (--force puts all of that CA aside)"
        raise FileExistsError(msg)
    source = Passphrase(passphrase_file, passphrase_env)
    if no_passphrase:
        if source.given():
            msg = "--no-passphrase and a passphrase are two answers to one question"
            raise click.UsageError(msg)
        terminal.warn(f"the key in {directory} is not encrypted: whoever copies it is the CA")
        passphrase = None
    else:
        passphrase = source.new(otherwise=" or --no-passphrase")
    store = Store.create(directory, root, passphrase=passphrase, crl_days=crl_days, force=force)
    info = authority.inspect(store.certificate())
    terminal.report(
        {"ca": str(directory), **info.as_dict()},
        f"Made the CA {root.name!r} in {directory}, valid until {terminal.day(info.not_after)}.\n"
        f"Every machine gets a copy of {directory / CERTIFICATE}; {KEY} stays here.",
        as_json=as_json,
    )


@click.command(cls=Command, examples=("device.csr", "node1/device.csr --out node1.pem --yes"))
@click.argument("csr", metavar="CSR", type=click.Path(path_type=Path, dir_okay=False, exists=True))
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help=f"Where to write the certificate.  [default: {DEVICE_CERTIFICATE} beside CSR]",
)
@click.option("--name", help="Name of the device, instead of the one in CSR.")
@terminal.device_days_option
@click.option("--yes", is_flag=True, help="Sign without asking.")
@terminal.force_option
@terminal.signing_options
@terminal.json_option
def sign(
    csr: Path,
    *,
    out: Path | None,
    name: str | None,
    days: int,
    yes: bool,
    force: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Sign a request that a device has made, after showing what it asks for.

    Only the key and the names are copied from CSR.
    """
    signing = Signing.taken_from(options)
    store = signing.store()
    out = out or csr.with_name(DEVICE_CERTIFICATE)
    if out.exists() and not force:
        msg = f"{out} is there already (--force replaces it)"
        raise FileExistsError(msg)
    content = _files.read(csr)
    request = authority.read_request(content)
    _show(request, name or request.name, store, csr)
    if not yes:
        terminal.confirm("Sign it?", option="--yes")
    with signing.signer() as signer:
        entry = signer.sign(content, out, name=name, days=days, replace=force)
    _report(
        store,
        entry,
        f"Signed: {out}, valid until {terminal.day(entry.not_after)}.\n"
        f"Bring it and {trust_file(store)} (as {CERTIFICATE}) back to the device.",
        as_json=as_json,
    )


def _show(request: authority.Request, name: str, store: Store, csr: Path) -> None:
    root = store.index().root
    names = str(request.names)
    if not request.names.uris and name:
        names += f", URI:{authority.identity(root.name, name)}"
    pairs = [
        ("request", str(csr)),
        ("name", name),
        ("names", names),
        ("key", request.key),
        ("key's SHA-256", request.key_fingerprint),
    ]
    if request.ignored:
        pairs.append(("not copied", ", ".join(request.ignored)))
    terminal.note(terminal.details(pairs))
    _warn_of_revoked(store, request.key_fingerprint)
    identity = (*request.names.uris, authority.identity(root.name, name) if name else "")[0]
    for entry in _in_use(store):
        info = authority.inspect(store.issued(entry))
        if info.key_fingerprint != request.key_fingerprint and (
            entry.name == name or identity in info.names.uris
        ):
            terminal.warn(
                f"another key has a valid certificate as {terminal.printable(entry.name)}"
                f" (serial {entry.serial}); revoke it if that key is not in use any more"
            )


def _warn_of_revoked(store: Store, key_fingerprint: str) -> None:
    for entry in store.revoked_for(key_fingerprint):
        terminal.warn(
            f"a certificate for this key was revoked ({entry.reason}): that of"
            f" {terminal.printable(entry.name)} (serial {entry.serial})"
        )


def _in_use(store: Store) -> list[Entry]:
    index, when = store.index(), now()
    replaced = index.replaced()
    return [item for item in index.issued.values() if status_of(item, replaced, when) == "valid"]


@click.command(
    cls=Command,
    examples=("node1 --dns node1.plant.example --ip 10.0.0.3", "node1.plant.example --out certs"),
)
@click.argument("name")
@terminal.name_options
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Where to write the files.  [default: ./NAME]",
)
@terminal.key_type_option(authority.DEVICE_KEY_TYPE)
@terminal.device_days_option
@terminal.force_option
@terminal.signing_options
@terminal.json_option
def issue(
    name: str,
    *,
    dns: Sequence[str],
    ip: Sequence[str],
    uri: Sequence[str],
    out: Path | None,
    key_type: authority.KeyType,
    days: int,
    force: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Make key and certificate of a machine in one step.

    For machines that you provision yourself: the key travels with the certificate.  The names are
    NAME, unless --dns or --ip give others.
    """
    authority.check_name(name)
    signing = Signing.taken_from(options)
    if dns or ip:
        names = authority.parse_names(dns=dns, ips=ip, uris=uri)
    else:
        try:
            names = authority.parse_names([name], uris=uri)
        except PkiError as exc:
            msg = f"{exc}; give the machine's names with --dns and --ip"
            raise PkiError(msg) from exc
    directory = out or Path(name)
    with signing.signer() as signer:
        entry = signer.issue(name, names, directory, key_type=key_type, days=days, replace=force)
    _report(
        signer.store,
        entry,
        f"Made ca.pem, device.pem and device.key in {directory},"
        f" valid until {terminal.day(entry.not_after)}.",
        as_json=as_json,
    )


@click.command(
    cls=Command,
    examples=("node1", "node1/device.pem --new-key", "device.pem --out new.pem --days 90"),
)
@click.argument("what", metavar="NAME|FILE")
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Write the certificate to FILE, and leave the old one in its place.",
)
@click.option("--new-key", is_flag=True, help="Make a new key, too, where the old one lies beside.")
@terminal.device_days_option
@click.option("--force", is_flag=True, help="Replace a certificate that is in FILE.")
@terminal.signing_options
@terminal.json_option
def renew(
    what: str,
    *,
    out: Path | None,
    new_key: bool,
    days: int,
    force: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Make a new certificate for the same key and names, in the place of the old one.

    The old one stays in issued/ and can still be revoked.
    """
    signing = Signing.taken_from(options)
    store = signing.store()
    old, file = _to_renew(store, what, out)
    if not new_key:
        _warn_of_revoked(store, authority.inspect(_files.read(old)).key_fingerprint)
    with signing.signer() as signer:
        entry = signer.renew(old, out=out, new_key=new_key, days=days, replace=force)
    terminal.report(
        {**described(store, store.index(), entry), "file": str(file.resolve())},
        f"Renewed: {file}, valid until {terminal.day(entry.not_after)}.",
        as_json=as_json,
    )


def _to_renew(store: Store, what: str, out: Path | None) -> tuple[Path, Path]:
    """Return the certificate that *what* means, and the file to write the new one to."""
    entries = find(store, what)
    file = Path(what)
    if file.is_file() and entries[-1].name != what:
        return file, out or file
    usable = [entry for entry in entries if entry.revoked is None]
    if not usable:
        msg = f"{what} was revoked, and is not renewed: make a new certificate for it"
        raise StoreError(msg)
    entry = usable[-1]
    copy, place = store.issued_path(entry), store.place(entry)
    if out is not None:
        return copy, out
    # An older one is there if the newest was written elsewhere, or could not be written.
    copies = [store.issued_path(item) for item in usable]
    if (
        place is None
        or not place.is_file()
        or _files.read(place) not in [_files.read(item) for item in copies if item.is_file()]
    ):
        msg = (
            f"the certificate of {what} is not in {place} any more:"
            " name the file, or say --out where the new one goes"
        )
        raise StoreError(msg)
    return place, place


@click.command(
    cls=Command,
    examples=("node1 --reason keyCompromise", "4f:1c:...:9a", "node1/device.pem --days 30"),
)
@click.argument("what", metavar="NAME|SERIAL|FILE")
@click.option(
    "--reason",
    type=click.Choice(authority.REASONS, case_sensitive=False),
    default="unspecified",
    show_default=True,
    help="Why; everybody can read it.",
)
@terminal.crl_days_option
@terminal.signing_options
@terminal.json_option
def revoke(
    what: str, *, reason: authority.Reason, days: int, as_json: bool, **options: Any
) -> None:
    """Revoke a certificate, and write a new revocation list at once.

    A NAME means all certificates of that device that have not expired, the renewed ones included.
    With keyCompromise, all certificates for the same key are revoked.
    There is no way back.
    """
    signing = Signing.taken_from(options)
    store = signing.store()
    found = find(store, what)
    entries = [item for item in found if item.not_after > now() or len(found) == 1]
    if not entries:
        msg = f"all certificates of {what} have expired"
        raise StoreError(msg)
    with signing.signer() as signer:
        revoked = signer.revoke(entries, reason=reason, days=days)
    serials = ", ".join(f"{entry.name} ({entry.serial})" for entry in revoked)
    asked = {entry.serial for entry in entries}
    if more := [entry.serial for entry in revoked if entry.serial not in asked]:
        terminal.note(f"For the same key, and so revoked, too: {', '.join(more)}.")
    text = f"Revoked: {serials}." if revoked else f"{what} was revoked before."
    terminal.report(
        [described(store, store.index(), entry) for entry in revoked],
        f"{text}\nBring {store.directory / CRL} to every machine.",
        as_json=as_json,
    )


@click.command(cls=Command, examples=("", "--days 30"))
@terminal.crl_days_option
@terminal.signing_options
@terminal.json_option
def crl(*, days: int, as_json: bool, **options: Any) -> None:
    """Write a new revocation list; do it before the last one is stale."""
    signing = Signing.taken_from(options)
    with signing.signer() as signer:
        signer.publish(days=days)
    file = signer.store.directory / CRL
    info = authority.read_crl(split_crl(signer.store.crl())[0])
    terminal.report(
        {"file": str(file), **info.as_dict()},
        f"Wrote {file}: number {info.number}, {len(info.revoked)} revoked,"
        f" valid until {terminal.day(info.next_update)}.",
        as_json=as_json,
    )


@click.command(cls=Command, examples=("", "--finish"))
@click.option("--finish", is_flag=True, help="End the overlap: the former CA is trusted no more.")
@click.option(
    "--force", is_flag=True, help="Finish even if certificates of the former CA are used."
)
@terminal.key_type_option(None, default_text="that of the old key")
@terminal.days_option(None, "the new CA is valid; as long as the old one by default", longest=7300)
@terminal.signing_options
@terminal.json_option
def rotate(
    *,
    finish: bool,
    force: bool,
    key_type: authority.KeyType | None,
    days: int | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Replace the CA by a new generation, with an overlap in which both are trusted.

    First, the new CA signs, and ca-bundle.pem has both: bring it to every machine in the place of
    ca.pem, then renew every certificate.  Then --finish, and bring ca.pem to every machine.
    """
    if finish and (key_type or days):
        msg = "--finish makes no new CA: --key-type and --days do not go with it"
        raise click.UsageError(msg)
    signing = Signing.taken_from(options)
    store = signing.store()
    secret = signing.secret(store)
    with store.signing(secret) as signer:
        if finish:
            signer.finish(force=force)
            text = f"Finished. Bring {store.directory / CERTIFICATE} to every machine."
        else:
            signer.rotate(key_type=key_type, days=days, passphrase=secret)
            names = sorted({entry.name for entry in signer.using_former()})
            ca = shlex.join(["--ca", str(store.directory)])
            commands = [f"renew {shlex.quote(name)} {ca}" for name in names]
            renewals = "".join(f"\n   {terminal.program()} {command}" for command in commands)
            text = (
                f"The new CA signs from now on. Next:\n"
                f"1. bring {store.directory / BUNDLE} to every machine, as {CERTIFICATE}\n"
                f"2. renew what the former CA has signed:{renewals or ' nothing'}\n"
                f"3. {terminal.program()} rotate --finish {ca}"
            )
    info = authority.inspect(store.certificate())
    data = {"ca": str(store.directory), "trusted": str(trust_file(store)), **info.as_dict()}
    terminal.report(data, text, as_json=as_json)


def find(store: Store, what: str) -> tuple[Entry, ...]:
    """Return what `Store.find` finds; a file that is not there is an error of its own."""
    if "/" in what and not Path(what).exists():
        raise FileNotFoundError(2, "No such file or directory", what)
    return store.find(what)


def trust_file(store: Store) -> Path:
    """Return the file that devices have to trust."""
    bundle = store.directory / BUNDLE
    return bundle if bundle.exists() else store.directory / CERTIFICATE


def described(store: Store, index: Index, entry: Entry) -> dict[str, Any]:
    """Return all about a certificate that was issued, for JSON."""
    place = store.place(entry)
    return {
        **authority.inspect(store.issued(entry)).as_dict(),
        "status": index.status(entry, now()),
        "revoked": entry.revoked.isoformat() if entry.revoked else None,
        "reason": entry.reason,
        "file": str(place) if place else None,
    }


def _report(store: Store, entry: Entry, text: str, *, as_json: bool) -> None:
    terminal.report(described(store, store.index(), entry), text, as_json=as_json)


commands = (init, sign, issue, renew, revoke, crl, rotate)
