"""What the commands of a cluster share: errors as one line, examples, tables and JSON."""

from __future__ import annotations

import errno
import json
import sys
from collections.abc import Sequence
from typing import Any

import click

from aiomas.cluster.summary import summary
from aiomas.exceptions import AiomasError

INTERRUPTED = 130
"""The exit code after Ctrl-C, as shells have it."""


class Commands(click.Group):
    """A group whose commands fail with one line, unless ``--debug`` asks for the whole story."""

    def invoke(self, ctx: click.Context) -> Any:
        if sys.platform == "win32":
            msg = "aiomas.cluster needs a POSIX system, Windows is none"
            raise click.ClickException(msg)
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            ctx.exit(INTERRUPTED)
        except click.UsageError as exc:
            where = exc.ctx.command_path if exc.ctx else ctx.command_path
            msg = f"{exc.format_message()} (see {where} --help)"
            raise click.UsageError(msg) from exc  # without a context it is one line, not three
        except (AiomasError, OSError) as exc:
            closed_pipe = isinstance(exc, OSError) and exc.errno == errno.EPIPE
            if closed_pipe or ctx.params["debug"]:
                raise
            raise click.ClickException(describe(exc)) from exc


class Command(click.Command):
    """A command whose help ends with examples."""

    def __init__(self, *args: Any, examples: Sequence[str], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.examples = examples

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Examples"):
            for example in self.examples:
                line = f"{ctx.command_path} {example}"
                formatter.write(f"{'':{formatter.current_indent}}{line.rstrip()}\n")


json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")

name_argument = click.argument("name", required=False)


def describe(exc: BaseException) -> str:
    """Return one line that says what went wrong."""
    if isinstance(exc, OSError) and exc.filename is not None:
        return printable(f"{exc.filename}: {exc.strerror}")
    return printable(summary(str(exc)))


def report(data: object, text: str, *, as_json: bool) -> None:
    """Print what a command has to say, for programs or for people."""
    click.echo(json.dumps(data, indent=2) if as_json else text)


def printable(text: str) -> str:
    """Return *text* with everything escaped that could confuse a terminal."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


def table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return *rows* below *titles*, in columns as wide as they need to be."""
    safe = [[printable(cell) for cell in row] for row in (titles, *rows)]
    widths = [max(map(len, column)) for column in zip(*safe, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in safe
    )


def size(number: float | None) -> str:
    """Return a number of bytes for people."""
    if number is None:
        return "-"
    for unit in ("B", "KiB", "MiB"):
        if number < 1024:  # noqa: PLR2004 - so many of a unit are the next one
            return f"{number:.0f} {unit}" if unit == "B" else f"{number:.1f} {unit}"
        number /= 1024
    return f"{number:.1f} GiB"


def span(seconds: float | None) -> str:
    """Return a time span for people."""
    if seconds is None:
        return "-"
    minutes, rest = divmod(max(int(seconds), 0), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days} d {hours} h"
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
