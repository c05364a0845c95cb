"""The command on the side of a device: request."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import click

from pki import _files, authority
from pki import _terminal as terminal
from pki._files import NewFile
from pki._host import names_of_host
from pki._layout import DEVICE_KEY, DEVICE_REQUEST
from pki._terminal import Command

__all__ = ["commands"]


@click.command(
    cls=Command,
    examples=("node1", "node1 --dns node1.plant.example --ip 10.0.0.3 --out /etc/plant"),
)
@click.argument("name")
@terminal.name_options
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    default=Path(),
    show_default="here",
    help="Where to write the files.",
)
@terminal.key_type_option(authority.DEVICE_KEY_TYPE)
@terminal.force_option
@terminal.json_option
def request(
    name: str,
    *,
    dns: Sequence[str],
    ip: Sequence[str],
    uri: Sequence[str],
    out: Path,
    key_type: authority.KeyType,
    force: bool,
    as_json: bool,
) -> None:
    """Make a key and a request for a certificate, on the device itself.

    device.key never leaves the device; device.csr is for the CA.  By default, the names are those
    of this host; --dns and --ip give others instead.  The identity, spiffe://CA/NAME, is added
    by the CA when it signs.
    """
    authority.check_name(name)
    names = authority.parse_names(dns=dns, ips=ip, uris=uri)
    if not (dns or ip):
        names = dataclasses.replace(names_of_host(), uris=names.uris)
    key_file, csr_file = out / DEVICE_KEY, out / DEVICE_REQUEST
    for file in (key_file, csr_file):
        if file.exists() and not force:
            msg = f"{file} is there already (--force replaces it)"
            raise FileExistsError(msg)
    key = authority.make_key(key_type)
    csr = authority.make_request(name, names, key)
    _files.make_directory(out)
    files = [NewFile(key_file, key, private=True), NewFile(csr_file, csr)]
    _files.write_together(files, replace=force, keep_owner=False)
    made = authority.read_request(csr)
    identity = "" if names.uris else f", URI:spiffe://<CA>/{name} (added by the CA)"
    terminal.report(
        {"key_file": str(key_file), "request_file": str(csr_file), **made.as_dict()},
        terminal.details(
            [
                ("name", name),
                ("names", f"{names}{identity}"),
                ("key's SHA-256", made.key_fingerprint),
            ]
        )
        + f"\nMade {key_file}, which stays here, and {csr_file}: bring that to the CA.",
        as_json=as_json,
    )


commands = (request,)
