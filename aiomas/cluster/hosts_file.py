"""A TOML file with the hosts of a cluster, how they are reached, and what the cluster is to be.

All that the file says is checked here; an error names the file, the line and the field.  What a
:class:`~aiomas.cluster.Cluster` makes of it is not known here.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import os
import re
import tomllib
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from aiomas.cluster.hosts import HostSpec
from aiomas.cluster.launchers.base import Launcher
from aiomas.cluster.spec import LOOPS, ON_HANG, TRANSPORTS, RestartPolicy
from aiomas.cluster.toml_lines import Where, lines_of

_SYNTAX_ERROR = re.compile(
    r"(?P<what>.*) \(at (?:line (?P<line>\d+), column \d+|end of document)\)"
)
_PARAMETER = re.compile(r"(?:[A-Z]\w*\.)?(?P<name>[a-z_]+)\b")  # at the beginning of an error
_BARE_KEY = re.compile(r"[\w-]+")


@dataclasses.dataclass(frozen=True, slots=True)
class HostsFile:
    """What :func:`read_hosts` has found."""

    path: str
    """The file, as it was named."""
    hosts: tuple[HostSpec, ...]
    cluster: Mapping[str, Any]
    """Other parameters of a :class:`~aiomas.cluster.Cluster`, by their names."""
    launcher: Launcher | None
    """What starts the supervisors; ``None`` if the file does not say it."""
    lines: Mapping[str, int] = dataclasses.field(default_factory=dict, repr=False)
    """Where the parameters are, by their names."""

    def keywords(self, **given: Any) -> dict[str, Any]:
        """Return the parameters of the cluster.

        Args:
            given: those that count more than what the file says.
        """
        launcher = {} if self.launcher is None else {"launcher": self.launcher}
        return {"hosts": self.hosts, **launcher, **self.cluster, **given}

    def located(self, message: str, given: Collection[str] = ()) -> str:
        """Return an error of the cluster with file and line, if it is about a parameter from here.

        Args:
            message: what is wrong, with the name of the parameter at its beginning.
            given: the parameters that are not from here.
        """
        match = _PARAMETER.match(message)
        if not match or match["name"] in given or match["name"] not in self.lines:
            return message
        return f"{self.path}, line {self.lines[match['name']]}: cluster.{message}"


def read_hosts(path: str | os.PathLike[str]) -> HostsFile:
    """Read a file with hosts; the guide "A file of hosts" describes what is in it.

    Raises:
        OSError: it cannot be read.
        ValueError: something in it is wrong; the message names the file, the line and the field.
    """
    text = _Text(os.fspath(path), Path(path).read_bytes())
    text.check_keys((), text.values, ("hosts", "defaults", "cluster", "ssh", "command"))
    cluster = _cluster(text)
    lines = {key: text.line(("cluster", key)) for key in cluster}
    launcher = _launcher(text)
    return HostsFile(text.path, _hosts(text), cluster, launcher, lines)


class _Text:
    """The values of a file, and where they are."""

    def __init__(self, path: str, data: bytes) -> None:
        self.path = path
        self.values: dict[str, Any]
        self._lines: dict[Where, int] = {}
        try:
            text = data.decode().replace("\r\n", "\n")
            self.values = tomllib.loads(text)
            self._lines = lines_of(text)
        except UnicodeDecodeError as exc:
            line = data.count(b"\n", 0, exc.start) + 1
            msg = f"{path}, line {line}: this is no UTF-8"
            raise ValueError(msg) from exc
        except tomllib.TOMLDecodeError as exc:
            match = _SYNTAX_ERROR.fullmatch(str(exc))
            what, at = (match["what"], match["line"]) if match else (str(exc), None)
            msg = f"{path}, line {at or len(text.splitlines())}: {what}"
            raise ValueError(msg) from exc
        except RecursionError as exc:
            msg = f"{path}, line 1: arrays are nested too deep"
            raise ValueError(msg) from exc

    def line(self, where: Where) -> int:
        """Return the line of a value, or of the table in which it is missing."""
        while where and where not in self._lines:
            where = where[:-1]
        return self._lines.get(where, 1)

    def error(self, where: Where, what: str) -> ValueError:
        """Return an error about a field."""
        return ValueError(f"{self.path}, line {self.line(where)}: {_name(where)} {what}")

    def refused(self, where: Where, exc: ValueError, keys: Iterable[str]) -> ValueError:
        """Return the error of a class about one of its parameters, which has the name of a key."""
        match = _PARAMETER.match(str(exc))
        if match and match["name"] in keys:
            return self.error((*where, match["name"]), str(exc)[match.end() :].lstrip())
        return self.error(where, f"is refused: {exc}")

    def table(self, where: Where, keys: Collection[str]) -> dict[str, Any]:
        """Return a table, empty if it is not there, that has none but these keys."""
        value: Any = self.values
        for key in where:
            value = value.get(key, {})
        if not isinstance(value, dict):
            raise self.error(where, f"must be a table, got {value!r}")
        self.check_keys(where, value, keys)
        return value

    def check_keys(self, where: Where, table: Iterable[str], keys: Collection[str]) -> None:
        """Make sure that a table has none but these keys."""
        for key in table:
            if key not in keys:
                near = difflib.get_close_matches(key, keys, 1)
                known = f"do you mean {near[0]}?" if near else f"known are {', '.join(keys)}"
                raise self.error((*where, key), f"is not known; {known}")

    def check(self, where: Where, value: Any, kind: _Kind) -> None:
        """Make sure that a value is what it should be."""
        if not kind.fits(value):
            raise self.error(where, f"must be {kind.what}, got {value!r}")
        if kind.each is not None:
            for index, element in enumerate(value):
                self.check((*where, index), element, kind.each)

    def checked(self, where: Where, kinds: Mapping[str, _Kind]) -> dict[str, Any]:
        """Return a table whose values are what they should be."""
        table = self.table(where, kinds)
        for key, value in table.items():
            self.check((*where, key), value, kinds[key])
        return table


def _name(where: Where) -> str:
    """Return how a field is called: ``hosts[1].env.PATH``."""
    name = ""
    for key in where:
        if isinstance(key, int):
            name += f"[{key}]"
        else:
            word = key if _BARE_KEY.fullmatch(key) else repr(key)
            name += f".{word}" if name else word
    return name


@dataclasses.dataclass(frozen=True, slots=True)
class _Kind:
    what: str
    fits: Callable[[Any], bool]
    each: _Kind | None = None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _from(least: int) -> _Kind:
    return _Kind(
        f"a number from {least} up",
        lambda value: isinstance(value, int) and _is_number(value) and value >= least,
    )


def _one_of(*names: str) -> _Kind:
    return _Kind(f"one of {', '.join(names)}", lambda value: value in names)


_TEXT = _Kind(
    "a string with something in it",
    lambda value: isinstance(value, str) and value != "" and value.isprintable(),
)
_FLAG = _Kind("true or false", lambda value: isinstance(value, bool))
_SECONDS = _Kind("a positive number of seconds", lambda value: _is_number(value) and value > 0)
_TEXTS = _Kind("a list of strings", lambda value: isinstance(value, list), _TEXT)

_CLUSTER = {
    "containers": _from(1),
    "transport": _one_of(*TRANSPORTS),
    "insecure": _FLAG,
    "allow_partial": _FLAG,
    "lease": _SECONDS,
    "heartbeat": _SECONDS,
    "address": _TEXT,
    "on_host_loss": _TEXT,
    "sync": _TEXTS,
    "codec": _TEXT,
    "pki": _TEXT,
    "certificate_days": _from(1),
    "loop": _one_of(*LOOPS),
    "preload": _TEXTS,
    "name": _TEXT,
    "seed": _Kind("an integer or a string", lambda v: isinstance(v, str) or type(v) is int),
    "port": _from(0),
    "pin": _FLAG,
    "nice": _from(0),
    "memory": _from(1),
    "open_files": _from(1),
    "hang_timeout": _SECONDS,
    "on_hang": _one_of(*ON_HANG),
    "logs": _FLAG,
    "log_dir": _TEXT,
    "log_bytes": _from(1),
    "log_backups": _from(0),
    "start_timeout": _SECONDS,
    "stop_timeout": _SECONDS,
    "restart": _Kind("a table", lambda value: isinstance(value, dict)),
}
_SSH = {"options": _TEXTS, "python": _TEXT, "ssh": _TEXT, "connect_timeout": _SECONDS}
_COMMAND = {"prefix": _TEXTS, "python": _TEXT, "shell": _FLAG}
_HOST = tuple(field.name for field in dataclasses.fields(HostSpec))
_DEFAULTS = tuple(field for field in _HOST if field not in {"host", "name", "address"})


def _cluster(text: _Text) -> dict[str, Any]:
    where = ("cluster",)
    found = dict(text.checked(where, _CLUSTER))
    home = Path(text.path).absolute().parent
    for key in ("pki", "log_dir"):
        if key in found:
            found[key] = home / found[key]
    if "pki" in found and not found["pki"].is_dir():
        raise text.error((*where, "pki"), f"must be a directory, there is no {found['pki']}")
    if "sync" in found:
        found["sync"] = tuple(home / path for path in found["sync"])
        for index, path in enumerate(found["sync"]):
            if not path.exists():
                raise text.error((*where, "sync", index), f"must be there, there is no {path}")
    if "restart" in found:
        fields = [field.name for field in dataclasses.fields(RestartPolicy)]
        table = text.table((*where, "restart"), fields)
        try:
            found["restart"] = RestartPolicy(**table)
        except ValueError as exc:
            raise text.refused((*where, "restart"), exc, fields) from exc
    return found


def _launcher(text: _Text) -> Launcher | None:
    if "ssh" in text.values and "command" in text.values:
        raise text.error(("command",), "cannot be used with ssh: leave one of the two out")
    if "ssh" in text.values:
        from aiomas.cluster.launchers.ssh import SSHLauncher  # noqa: PLC0415 - most use one or none

        return _made(text, "ssh", _SSH, SSHLauncher)
    if "command" in text.values:
        from aiomas.cluster.launchers.command import CommandLauncher  # noqa: PLC0415 - as above

        return _made(text, "command", _COMMAND, CommandLauncher)
    return None


def _made(
    text: _Text, key: str, kinds: Mapping[str, _Kind], make: Callable[..., Launcher]
) -> Launcher:
    fields = dict(text.checked((key,), kinds))
    if "prefix" in kinds and not fields.get("prefix"):
        raise text.error((key, "prefix"), 'must be there, as ["srun", "-w", "{host}"]')
    try:
        return make(**fields)
    except ValueError as exc:
        raise text.refused((key,), exc, kinds) from exc


def _hosts(text: _Text) -> tuple[HostSpec, ...]:
    defaults = text.table(("defaults",), _DEFAULTS)
    _host_spec(text, ("defaults",), {"host": "any", **defaults})
    elements = text.values.get("hosts", [])
    if not isinstance(elements, list):
        raise text.error(("hosts",), "must be a list: write [[hosts]] before each of them")
    if not elements:
        raise text.error(("hosts",), "must have at least one host: [[hosts]] and host = '...'")
    specs = []
    first: dict[str, int] = {}
    for index, element in enumerate(elements):
        where = ("hosts", index)
        fields = {"host": element} if isinstance(element, str) else element
        if not isinstance(fields, dict):
            raise text.error(where, f"must be a table or a string, got {element!r}")
        text.check_keys(where, fields, _HOST)
        if "host" not in fields:
            raise text.error(where, "must say host, how it is reached")
        _host_spec(text, where, fields)  # so that errors are about what it says itself
        env = {**defaults.get("env", {}), **fields.get("env", {})}
        spec = _host_spec(text, where, {**defaults, **fields, "env": env})
        other = first.setdefault(spec.label, index)
        if other != index:
            what = f"is {spec.label!r}, as hosts[{other}] in line {text.line(('hosts', other))} is"
            field = "name" if spec.name is not None else "host"
            raise text.error((*where, field), f"{what}: give it a name of its own")
        specs.append(spec)
    return tuple(specs)


def _host_spec(text: _Text, where: Where, fields: Mapping[str, Any]) -> HostSpec:
    env = fields.get("env")
    if isinstance(env, dict):
        for name, value in env.items():
            if not isinstance(value, str):
                raise text.error((*where, "env", name), f"must be a string, got {value!r}")
    try:
        return HostSpec(**fields)
    except ValueError as exc:
        raise text.refused(where, exc, _HOST) from exc
