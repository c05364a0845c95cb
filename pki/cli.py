"""The command ``pki``: a certificate authority, and what devices need of it.

Runs as ``python -m pki`` and as ``aiomas pki``.  The commands are thin: what they do is in
`pki.store` and `pki.authority`.
"""

from __future__ import annotations

import click

from pki import _commands_bootstrap, _commands_ca, _commands_device, _commands_reports
from pki._terminal import Commands

__all__ = ["main", "pki"]


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--debug", is_flag=True, help="Show a traceback when something fails.")
def pki(*, debug: bool) -> None:
    """Certificates for the machines of a distributed system.

    For tests: bootstrap makes everything at once.  For real systems: init makes a certificate
    authority (CA) on a machine without a network, request makes a key and a request on each device,
    sign turns the request into a certificate on the CA's machine.
    """


for _command in (
    *_commands_bootstrap.commands,
    *_commands_ca.commands,
    *_commands_device.commands,
    *_commands_reports.commands,
):
    pki.add_command(_command)


def main() -> None:
    """Run the command with the arguments of this process."""
    pki(prog_name="python -m pki")
