"""The commands that only look: list, inspect and check."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from pki import _checks, _files, authority
from pki import _terminal as terminal
from pki._checks import Checked, Wanted
from pki._commands_ca import described
from pki._index import now
from pki._layout import INDEX
from pki._signer import split_crl
from pki._terminal import Command, Passphrase
from pki.authority import Finding, PkiError, Severity
from pki.store import Store

__all__ = ["commands"]

COLORS = {Severity.GOOD: "green", Severity.RENEW: "yellow", Severity.BROKEN: "red"}


@click.command("list", cls=Command, examples=("", "--status valid --long", "--json"))
@click.option(
    "--status",
    type=click.Choice(["valid", "replaced", "expired", "revoked", "untrusted"]),
    help="Only these.",
)
@click.option("--long", is_flag=True, help="All columns.")
@terminal.ca_option
@terminal.json_option
def list_(*, ca: Path, status: str | None, long: bool, as_json: bool) -> None:
    """List the certificates that were issued, the oldest first."""
    store = terminal.open_store(ca)
    index = store.index()
    found = [described(store, index, entry) for entry in index.issued.values()]
    found = [item for item in found if status in {None, item["status"]}]
    columns = ["name", "status", "not_after", "key", "serial", "names"]
    if long:
        columns += ["subject", "issuer", "not_before", "fingerprint", "reason", "file"]
    rows = [[_cell(item[column]) for column in columns] for item in found]
    titles = [{"not_after": "until", "not_before": "from"}.get(title, title) for title in columns]
    text = terminal.table(titles, rows) if rows else "(none)"
    terminal.report(found, text, as_json=as_json)


def _cell(value: object) -> str:
    match value:
        case None:
            return ""
        case {"dns": dns, "ips": ips, "uris": uris}:
            kinds = (("DNS", dns), ("IP", ips), ("URI", uris))
            return ", ".join(f"{kind}:{name}" for kind, names in kinds for name in names)
    return str(value)


@click.command(cls=Command, examples=("device.pem", "device.csr --json", "ca/crl.pem"))
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False, exists=True))
@terminal.ca_option
@terminal.json_option
def inspect(file: Path, *, ca: Path, as_json: bool) -> None:
    """Show what a file says: certificates, a request, a revocation list, or a key.

    The status of a certificate is known where its CA is (--ca).
    """
    data = _files.read(file)
    kind = authority.kind_of(data)
    store = Store(ca) if (ca / INDEX).is_file() else None
    found: list[dict[str, Any]]
    if kind == "certificate":
        found = [_certificate(part, store) for part in authority.split(data)]
    elif kind == "request":
        found = [authority.read_request(data).as_dict()]
    elif kind == "crl":
        found = [authority.read_crl(part).as_dict() for part in split_crl(data)]
    else:
        encrypted = authority.is_encrypted(data)
        found = [{"encrypted": encrypted, "others_can_read": _files.others_can_read(file)}]
    found = [{"file": str(file), "kind": kind, **item} for item in found]
    texts = [
        terminal.details([(key.replace("_", " "), _text(value)) for key, value in item.items()])
        for item in found
    ]
    terminal.report(found[0] if len(found) == 1 else found, "\n\n".join(texts), as_json=as_json)


def _certificate(part: bytes, store: Store | None) -> dict[str, Any]:
    info = authority.inspect(part)
    if store:
        index = store.index()
        entry = index.issued.get(info.serial)
        issuers = {generation.fingerprint: generation.subject for generation in index.generations}
        # A certificate of another CA may have the same serial number.
        if entry and issuers[entry.issuer] == info.issuer:
            return described(store, index, entry)
    status = "in time"  # whether it was revoked, only its CA knows
    if info.not_after <= now():
        status = "expired"
    elif info.not_before > now():
        status = "not valid yet"
    return {**info.as_dict(), "status": status}


def _text(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(map(_text, value)) or "(none)"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict) and set(value) != {"dns", "ips", "uris"}:
        return " ".join(map(_text, value.values()))
    return _cell(value)


@click.command(
    cls=Command,
    examples=(
        "certs",
        "/etc/plant/device.pem --host node1.example --within 14d",
        "ca --quiet",
    ),
)
@click.argument(
    "paths", metavar="DIR|FILE...", nargs=-1, required=True, type=click.Path(path_type=Path)
)
@click.option(
    "--within",
    default="30d",
    show_default=True,
    callback=terminal.duration,
    metavar="TIME",
    help="What expires sooner needs renewal (30d, 12h, 2w).",
)
@click.option("--host", multiple=True, help="Devices must be reachable by this. May be repeated.")
@click.option(
    "--cafile",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    metavar="FILE",
    help="The CA to check with.  [default: ca-bundle.pem or ca.pem beside the certificate]",
)
@click.option(
    "--crlfile",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    metavar="FILE",
    help="Its revocation list.  [default: crl.pem beside the certificate]",
)
@terminal.passphrase_options
@click.option("--quiet", is_flag=True, help="Print only what is not good.")
@terminal.json_option
@click.pass_context
def check(
    ctx: click.Context,
    paths: Sequence[Path],
    *,
    within: dt.timedelta,
    host: Sequence[str],
    cafile: Path | None,
    crlfile: Path | None,
    passphrase_file: Path | None,
    passphrase_env: str | None,
    quiet: bool,
    as_json: bool,
) -> None:
    """Check files, or all that is in a directory, a CA included.

    Chain, key, names, expiry, permissions, profile and revocation.  The exit code is 0 if all is
    good, 1 if something needs renewal, and 2 if something is broken.
    """
    wanted = Wanted(
        within,
        tuple(host),
        _files.read(cafile) if cafile else None,
        _files.read(crlfile) if crlfile else None,
        Passphrase(passphrase_file, passphrase_env).given(),
    )
    checked = [item for path in paths for item in _check(path, wanted)]
    worst = authority.worst(finding for item in checked for finding in item.findings)
    data = {
        "status": worst.name.lower(),
        "checked": [
            {"file": str(item.path), "findings": [finding.as_dict() for finding in item.findings]}
            for item in checked
        ],
    }
    lines = [
        _line(item.path, finding)
        for item in checked
        for finding in item.findings
        if not (quiet and finding.severity is Severity.GOOD)
    ]
    if lines or as_json:
        terminal.report(data, "\n".join(lines), as_json=as_json)
    ctx.exit(int(worst))


def _check(path: Path, wanted: Wanted) -> list[Checked]:
    try:
        return _checks.check_path(path, wanted)
    except (PkiError, OSError) as exc:
        finding = Finding(Severity.BROKEN, "file", terminal.describe(exc))
        return [Checked(path, (finding,))]


def _line(path: Path, finding: Finding) -> str:
    word = click.style(f"{finding.severity.name.lower():6}", fg=COLORS[finding.severity])
    return f"{word} {terminal.printable(f'{path}: {finding.topic}: {finding.text}')}"


commands = (list_, inspect, check)
