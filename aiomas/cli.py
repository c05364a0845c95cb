"""The command ``aiomas``.

What a group of commands needs is imported when the group is used: ``aiomas --help`` is quick.
"""

from __future__ import annotations

import importlib

import click

from aiomas import __version__

__all__ = ["aiomas", "main"]

GROUPS = {
    "cluster": (
        "aiomas.cluster.commands:cluster",
        "Many containers, on this machine and others, as one system (POSIX only).",
    ),
    "pki": ("pki.cli:pki", "Certificates for the machines of a distributed system."),
}
"""Where each group is, and what it is for."""


class LazyGroups(click.Group):
    """A group whose members are imported when they are used."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return sorted(GROUPS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - click's signature
        if cmd_name not in GROUPS:
            return None
        module, _, name = GROUPS[cmd_name][0].partition(":")
        command: click.Command = getattr(importlib.import_module(module), name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, GROUPS[name][1]) for name in self.list_commands(ctx)])


@click.group(cls=LazyGroups, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, message="%(prog)s %(version)s")
def aiomas() -> None:
    """Agents, remote procedure calls and channels on asyncio."""


def main() -> None:
    """Run the command with the arguments of this process."""
    aiomas(prog_name="aiomas")


if __name__ == "__main__":
    main()
