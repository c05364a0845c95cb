"""What the commands share: questions at a terminal, passphrases, options, errors and output.

Without a terminal nothing is asked: a question that was not answered by an option is an error,
which names the option.  A passphrase is never an argument, and never in a message.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import errno
import json
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import click

from pki import _files, authority
from pki._layout import INDEX
from pki._signer import Signer
from pki.store import Store, StoreError

C = TypeVar("C", bound=Callable[..., Any])

_UNITS = {"h": "hours", "d": "days", "w": "weeks"}

# --- commands and their errors --------------------------------------------------------------------


class Commands(click.Group):
    """A group whose commands fail with one line, unless ``--debug`` asks for the whole story."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except click.UsageError as exc:
            where = exc.ctx.command_path if exc.ctx else ctx.command_path
            msg = f"{exc.format_message()} (see {where} --help)"
            raise click.UsageError(msg) from exc  # without a context it is one line, not three
        except (authority.PkiError, OSError) as exc:
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


def describe(exc: Exception) -> str:
    """Return one line that says what went wrong."""
    text = str(exc)
    if isinstance(exc, OSError) and exc.filename is not None:
        text = f"{exc.filename}: {exc.strerror}"
    if isinstance(exc, FileExistsError) and "--force" not in text:
        text += " (--force replaces it)"
    return printable(" ".join(text.split()))


# --- output ---------------------------------------------------------------------------------------


def note(message: str) -> None:
    """Say something to whoever watches; what a program would read goes to stdout instead."""
    click.echo(message, err=True)


def warn(message: str) -> None:
    """Say what may go wrong later."""
    note(click.style("warning: ", fg="yellow") + message)


def report(data: object, text: str, *, as_json: bool) -> None:
    """Print what a command has to say, for programs or for people."""
    click.echo(json.dumps(data, indent=2) if as_json else text)


def printable(text: str) -> str:
    """Return *text* with everything escaped that could confuse a terminal."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


def day(when: dt.datetime) -> str:
    """Return a date for people."""
    return f"{when:%Y-%m-%d}"


def table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return *rows* below *titles*, in columns as wide as they need to be."""
    safe = [[printable(cell) for cell in row] for row in (titles, *rows)]
    widths = [max(map(len, column)) for column in zip(*safe, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in safe
    )


def details(pairs: Sequence[tuple[str, str]]) -> str:
    """Return lines with a label and a value each."""
    width = max(len(label) for label, _ in pairs) + 1
    return "\n".join(f"{f'{label}:':{width}} {printable(value)}".rstrip() for label, value in pairs)


# --- questions ------------------------------------------------------------------------------------


def at_terminal() -> bool:
    """Whether there is somebody who can answer."""
    return sys.stdin is not None and not sys.stdin.closed and sys.stdin.isatty()


def confirm(question: str, *, option: str) -> None:
    """Ask, and give up unless the answer is yes.

    Raises:
        click.ClickException: the answer is no, or nobody is there to answer.
    """
    if not at_terminal():
        msg = f"{question} There is no terminal to ask at: {option} says yes"
        raise click.ClickException(msg)
    if not click.confirm(question, err=True):
        msg = "nothing was done"
        raise click.ClickException(msg)


class Passphrase(NamedTuple):
    """Where a passphrase comes from: a file, a variable, or whoever sits at the terminal."""

    file: Path | None
    variable: str | None

    def given(self) -> str | None:
        """Return the one that options give, or None."""
        if self.file is not None and self.variable is not None:
            msg = "--passphrase-file and --passphrase-env are two answers to one question"
            raise click.UsageError(msg)
        if self.file is not None:
            return _usable(_first_line(self.file), f"the first line of {self.file}")
        if self.variable is not None:
            value = os.environb.get(os.fsencode(self.variable))
            if value is None:
                msg = f"--passphrase-env: there is no variable {self.variable}"
                raise click.ClickException(msg)
            return _usable(value, f"the variable {self.variable}")
        return None

    def current(self) -> str:
        """Return the passphrase of the CA's key, which exists."""
        return self.given() or _ask("Passphrase of the CA's key", twice=False)

    def new(self, *, otherwise: str) -> str:
        """Return a new passphrase, which a person types twice; *otherwise*: other options."""
        return self.given() or _ask("New passphrase for the CA's key", twice=True, more=otherwise)


def _ask(prompt: str, *, twice: bool, more: str = "") -> str:
    if not at_terminal():
        options = f"--passphrase-file{',' if more else ' or'} --passphrase-env{more}"
        msg = f"{prompt}: there is no terminal to ask at; use {options}"
        raise click.ClickException(msg)
    confirmation = "The same again" if twice else False
    answer: str = click.prompt(prompt, hide_input=True, confirmation_prompt=confirmation, err=True)
    return _usable(answer.encode(errors="surrogateescape"), "what was typed")


def _first_line(file: Path) -> bytes:
    if str(file) == "-":
        data = sys.stdin.buffer.readline()
    else:
        data = _files.read(file)
        if file.is_file() and _files.others_can_read(file):
            warn(f"others can read the passphrase in {file} (chmod 600 {file})")
    return data.partition(b"\n")[0].removesuffix(b"\r")


def _usable(passphrase: bytes, source: str) -> str:
    if not passphrase:
        msg = f"the passphrase is empty: {source}"
        raise click.ClickException(msg)
    try:
        return passphrase.decode()
    except UnicodeDecodeError:
        msg = f"the passphrase is not UTF-8: {source}"
        raise click.ClickException(msg) from None  # the cause has the bytes


# --- options --------------------------------------------------------------------------------------


def _options(*decorators: Callable[[C], C]) -> Callable[[C], C]:
    def decorate(command: C) -> C:
        for decorator in reversed(decorators):
            command = decorator(command)
        return command

    return decorate


passphrase_options = _options(
    click.option(
        "--passphrase-file",
        type=click.Path(path_type=Path, allow_dash=True),
        metavar="FILE",
        help="The passphrase of the CA's key is the first line of FILE (-: stdin).",
    ),
    click.option(
        "--passphrase-env",
        metavar="VARIABLE",
        help="The passphrase of the CA's key is in this environment variable.",
    ),
)

ca_option = click.option(
    "--ca",
    type=click.Path(path_type=Path, file_okay=False),
    envvar="AIOMAS_PKI",
    default="ca",
    show_default=True,
    show_envvar=True,
    metavar="DIR",
    help="The directory of the CA.",
)

signing_options = _options(
    ca_option,
    passphrase_options,
    click.option(
        "--allow-readable-key",
        is_flag=True,
        help="Use the CA's key even if others than its owner can read it.",
    ),
)

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")

force_option = click.option("--force", is_flag=True, help="Replace what is there.")

name_options = _options(
    click.option("--dns", multiple=True, metavar="NAME", help="A DNS name. May be repeated."),
    click.option("--ip", multiple=True, metavar="ADDRESS", help="An IP address. May be repeated."),
    click.option(
        "--uri", multiple=True, metavar="URI", help="The identity, instead of spiffe://CA/NAME."
    ),
)


def key_type_option(default: str | None, *, default_text: str | None = None) -> Callable[[C], C]:
    """Return the option for the kind of a key."""
    return click.option(
        "--key-type",
        type=click.Choice(authority.KEY_TYPES),
        default=default,
        show_default=default_text or True,
        help="Kind of the new key.",
    )


def days_option(
    default: int | None, what: str, *, longest: int, name: str = "--days"
) -> Callable[[C], C]:
    """Return the option for a lifetime."""
    return click.option(
        name,
        type=click.IntRange(1, longest),
        default=default,
        show_default=default is not None,
        help=f"For how many days {what}.",
    )


device_days_option = days_option(
    authority.DEVICE_DAYS, "the certificate is valid", longest=authority.DEVICE_DAYS
)
crl_days_option = days_option(
    authority.CRL_DAYS, "the revocation list is valid", longest=authority.CA_DAYS
)


def duration(_ctx: click.Context, _param: click.Parameter, value: str) -> dt.timedelta:
    """Read a time span: ``30d``, ``12h``, ``2w``; a number alone is days."""
    match = re.fullmatch(r"(\d{1,5})([hdw]?)", value.strip())
    if not match:
        msg = f"{value!r} is no time span such as 30d, 12h or 2w"
        raise click.BadParameter(msg)
    return dt.timedelta(**{_UNITS[match[2] or "d"]: int(match[1])})


# --- the authority --------------------------------------------------------------------------------


class Signing(NamedTuple):
    """What `signing_options` say."""

    ca: Path
    passphrase: Passphrase
    allow_readable_key: bool = False

    @classmethod
    def taken_from(cls, options: dict[str, Any]) -> Signing:
        """Take out of *options* what `signing_options` has put there."""
        passphrase = Passphrase(options.pop("passphrase_file"), options.pop("passphrase_env"))
        return cls(options.pop("ca"), passphrase, options.pop("allow_readable_key"))

    def store(self) -> Store:
        """Return the CA's directory."""
        return open_store(self.ca, allow_readable_key=self.allow_readable_key)

    @contextlib.contextmanager
    def signer(self) -> Iterator[Signer]:
        """Load the key, asking for its passphrase if nothing else gives it."""
        store = self.store()
        # Before the lock: others need not wait until somebody has typed.
        with store.signing(self.secret(store)) as signer:
            yield signer

    def secret(self, store: Store) -> str | None:
        """Return the passphrase, if the key has one."""
        return self.passphrase.current() if authority.is_encrypted(store.key()) else None


def program() -> str:
    """Return what a user types before the name of a command."""
    root = click.get_current_context().find_root()
    return f"{root.command_path} pki" if root.command.name == "aiomas" else root.command_path


def open_store(directory: Path, *, allow_readable_key: bool = False) -> Store:
    """Return the CA in *directory*; an error says how to make one, or to name another."""
    if not (directory / INDEX).exists():
        msg = (
            f"there is no CA in {directory}: name another directory with --ca or AIOMAS_PKI,"
            f" or make one with {program()} init {directory}"
        )
        raise StoreError(msg)
    return Store(directory, allow_readable_key=allow_readable_key)
