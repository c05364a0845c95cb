"""What a cluster is to be: values that are checked before anything is started."""

from __future__ import annotations

import dataclasses
import importlib.util
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from aiomas._cores import usable_cores
from aiomas._limits import Limits, check_seconds
from aiomas.clocks import ExternalClock
from aiomas.cluster.basedir import LONGEST_NAME, NAME
from aiomas.cluster.naming import codec_name, serializer_names

TRANSPORTS = ("unix", "tcp", "tls")
LOOPS = ("auto", "asyncio", "uvloop")
MODES = ("permanent", "transient", "temporary")
ON_HANG = ("report", "restart")

# Who has ended on this machine has closed its connections, and who is busy, be it the driver for a
# minute, is not to be taken for dead: the supervisor looks for containers that hang.
PATIENT = Limits(heartbeat=None, write_timeout=None)
"""The limits of connections between containers, where the user has chosen none."""
BETWEEN_HOSTS = Limits(heartbeat=None)
"""The same with several hosts: who is busy is not dead there either, as its system acknowledges
what it gets; but a network that takes nothing for *write_timeout* is broken."""

_LAST_PORT = 65535
_NICEST = 19
_MOST_DAYS = 365


def _check_choice(field: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        msg = f"{field} must be one of {', '.join(choices)}, got {value!r}"
        raise ValueError(msg)


def _check_number(field: str, value: object, least: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        msg = f"{field} must be a number from {least} up, got {value!r}"
        raise ValueError(msg)


def _check_positive(field: str, value: object) -> None:
    try:
        check_seconds(field, value)
    except TypeError as exc:
        raise ValueError(str(exc)) from None
    if value is None:
        msg = f"{field} is a positive number of seconds, got None"
        raise ValueError(msg)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RestartPolicy:
    """When a container that has ended is started again, in the terms of Erlang/OTP's supervisors.

    If a container would have to be restarted for the ``intensity + 1``-th time within *period*, it
    is given up: its address is closed, so that whoever dials it is refused.

    Raises:
        ValueError: a field has a value that it cannot have; the message names the field.
    """

    mode: str = "transient"
    """``"permanent"``: always; ``"transient"``: if it was killed or its exit code is not 0;
    ``"temporary"``: never."""
    intensity: int = 3
    """How many restarts there may be within *period*."""
    period: float = 60.0
    """Seconds in which *intensity* restarts may happen."""
    backoff: float = 0.1
    """Seconds before the first restart; twice as many before each further one within *period*,
    and up to a quarter more or less, by chance."""
    max_backoff: float = 10.0
    """The most seconds before a restart."""

    def __post_init__(self) -> None:
        _check_choice("RestartPolicy.mode", self.mode, MODES)
        _check_number("RestartPolicy.intensity", self.intensity, 0)
        for name in ("period", "max_backoff"):
            _check_positive(f"RestartPolicy.{name}", getattr(self, name))
        if self.backoff != 0:
            _check_positive("RestartPolicy.backoff", self.backoff)

    def wants_restart(self, exit_code: int | None) -> bool:
        """Whether a container that has ended with *exit_code* (or could not start) is restarted."""
        return self.mode == "permanent" or (self.mode == "transient" and exit_code != 0)

    def pause(self, restarts: int) -> float:
        """Return the seconds before a restart after *restarts* others within *period*."""
        return min(self.max_backoff, math.ldexp(self.backoff, min(restarts, 60)))


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ClusterSpec:
    """A cluster on one machine; all names are ``"module:attribute"`` or ``"/file.py:attribute"``.

    Raises:
        ValueError: a field has a value that it cannot have; the message names the field.
    """

    containers: int
    transport: str = "unix"
    codec: str = "aiomas.codecs:MsgPack"
    extra_serializers: tuple[str, ...] = ()
    loop: str = "auto"
    clock: str | None = None
    restart: RestartPolicy = RestartPolicy()
    preload: tuple[str, ...] = ()
    name: str | None = None
    seed: int | str | None = None
    port: int = 0
    """0 for free ports; else container *i* listens on ``port + i``."""
    env: tuple[dict[str, str], ...] = ()
    """None, one for all containers, or one for each."""
    cwd: str | None = None
    pin: bool = False
    nice: int = 0
    memory: int | None = None
    open_files: int | None = None
    hang_timeout: float | None = 30.0
    on_hang: str = "report"
    log_dir: str | None = None
    log_bytes: int = 10 * 2**20
    log_backups: int = 3
    certificate_days: int = 30
    start_timeout: float = 60.0
    stop_timeout: float = 10.0
    limits: Limits = PATIENT

    def __post_init__(self) -> None:
        _check_number("containers", self.containers, 1)
        _check_choice("transport", self.transport, TRANSPORTS)
        _check_choice("loop", self.loop, LOOPS)
        if self.name is not None and not (isinstance(self.name, str) and NAME.fullmatch(self.name)):
            msg = (
                f"name must have at most {LONGEST_NAME} letters, digits, '.', '_' and '-', with a "
                f"letter or a digit first, got {self.name!r}"
            )
            raise ValueError(msg)
        if isinstance(self.seed, bool) or not isinstance(self.seed, int | str | None):
            msg = f"seed must be an integer or a string, got {self.seed!r}"
            raise ValueError(msg)  # noqa: TRY004 - one kind of error for all parameters
        if self.loop == "uvloop" and importlib.util.find_spec("uvloop") is None:
            msg = "loop='uvloop' needs uvloop, which is not installed; use loop='auto'"
            raise ValueError(msg)
        if not isinstance(self.restart, RestartPolicy):
            msg = f"restart must be a RestartPolicy, got {self.restart!r}"
            raise ValueError(msg)  # noqa: TRY004 - as above
        if not isinstance(self.limits, Limits):
            msg = f"limits must be an aiomas.Limits, got {self.limits!r}"
            raise ValueError(msg)  # noqa: TRY004 - as above
        _check_choice("on_hang", self.on_hang, ON_HANG)
        for module in self.preload:
            if not isinstance(module, str):
                msg = f"preload must be names of modules, got {module!r}"
                raise ValueError(msg)  # noqa: TRY004 - as above
        self._check_numbers()
        if len(self.env) > 1 and len(self.env) != self.containers:
            msg = (
                f"env must be one mapping, or one for each of the {self.containers} containers, "
                f"got {len(self.env)}"
            )
            raise ValueError(msg)
        if self.cwd is not None and not Path(self.cwd).is_dir():
            msg = f"cwd must be a directory, got {self.cwd!r}"
            raise ValueError(msg)

    def _check_numbers(self) -> None:
        _check_number("port", self.port, 0)
        if self.port and self.port + self.containers - 1 > _LAST_PORT:
            msg = f"port must leave room for {self.containers} ports up to 65535, got {self.port}"
            raise ValueError(msg)
        if self.port and self.transport == "unix":
            msg = f"port={self.port} needs transport='tcp' or 'tls'; Unix sockets have no ports"
            raise ValueError(msg)
        _check_number("nice", self.nice, -20)
        if self.nice > _NICEST:
            msg = f"nice must be at most {_NICEST}, got {self.nice}"
            raise ValueError(msg)
        _check_number("certificate_days", self.certificate_days, 1)
        if self.certificate_days > _MOST_DAYS:
            msg = f"certificate_days must be at most {_MOST_DAYS}, got {self.certificate_days}"
            raise ValueError(msg)
        for name in ("memory", "open_files"):
            if getattr(self, name) is not None:
                _check_number(name, getattr(self, name), 1)
        _check_number("log_bytes", self.log_bytes, 1)
        _check_number("log_backups", self.log_backups, 0)
        for name in ("start_timeout", "stop_timeout"):
            _check_positive(name, getattr(self, name))
        if self.hang_timeout is not None:
            _check_positive("hang_timeout", self.hang_timeout)

    @property
    def uses_uvloop(self) -> bool:
        """Whether the containers run uvloop."""
        return self.loop == "uvloop" or (
            self.loop == "auto" and importlib.util.find_spec("uvloop") is not None
        )

    def modules_needed(self, sent: Iterable[str]) -> list[str]:
        """Return the packages and modules that every host has to have.

        Args:
            sent: the files that are sent there, relative to where modules are found.
        """
        names = [
            *self.preload,
            *(n.rpartition(":")[0] for n in (self.codec, *self.extra_serializers)),
        ]
        tops = {name.partition(".")[0] for name in names if not name.endswith(".py")}
        theirs = {path.partition("/")[0].removesuffix(".py") for path in sent}
        return sorted(tops - theirs - {"aiomas"})

    def env_of(self, index: int) -> dict[str, str]:
        """Return the environment variables that a container has beyond the driver's."""
        if not self.env:
            return {}
        return self.env[index if len(self.env) > 1 else 0]

    @classmethod
    def of_parameters(cls, parameters: Mapping[str, Any], *, several: bool = False) -> ClusterSpec:
        """Return the spec for what a user wants, with everything in a form that can travel.

        Args:
            parameters: those of :class:`~aiomas.cluster.Cluster`, by their names; those that are
                no fields are left out.
            several: whether it has several hosts: between those, connections can break silently.

        Raises:
            ValueError: one has a value that it cannot have; the message names it.
        """
        fields = {field.name: parameters[field.name] for field in dataclasses.fields(cls)}
        if fields["containers"] is None:
            fields["containers"] = usable_cores()
        preload, clock = fields["preload"], fields["clock"]
        return cls(
            **fields
            | {
                "codec": codec_name(fields["codec"]),
                "extra_serializers": serializer_names(fields["extra_serializers"]),
                "preload": (preload,) if isinstance(preload, str) else tuple(preload),
                "clock": None if clock is None else clock_date(clock),
                "env": environments(fields["env"]),
                "cwd": _absolute(fields["cwd"]),
                "log_dir": _absolute(fields["log_dir"]),
                "limits": fields["limits"] or (BETWEEN_HOSTS if several else PATIENT),
            }
        )

    def fields(self) -> dict[str, Any]:
        """Return what :meth:`of_fields` makes the same value from; it can travel."""
        return dataclasses.asdict(self)

    @classmethod
    def of_fields(cls, fields: dict[str, Any]) -> ClusterSpec:
        """Return the value with these fields."""
        restart, limits = RestartPolicy(**fields["restart"]), Limits(**fields["limits"])
        return cls(**fields | {"restart": restart, "limits": limits})


def _absolute(path: str | os.PathLike[str] | None) -> str | None:
    return None if path is None else str(Path(path).absolute())


def clock_date(clock: Any) -> str:
    """Return the date at which an external clock starts, as a string.

    Raises:
        ValueError: *clock* is no date.
    """
    try:
        return str(ExternalClock(clock).utcnow())
    except (ValueError, TypeError) as exc:
        msg = f"clock must be a date, got {clock!r}: {exc}"
        raise ValueError(msg) from exc


def environments(
    env: Mapping[str, str] | Sequence[Mapping[str, str]],
) -> tuple[dict[str, str], ...]:
    """Return *env*, one mapping for all containers or one for each, as a field of a spec.

    Raises:
        ValueError: it is something else, or a name or value in it is no string.
    """
    mappings = [env] if isinstance(env, Mapping) else list(env)
    for mapping in mappings:
        strings: Iterable[Any] = ()
        if isinstance(mapping, Mapping):
            strings = [*mapping.keys(), *mapping.values()]
        if not isinstance(mapping, Mapping) or not all(isinstance(s, str) for s in strings):
            msg = (
                f"env must be a mapping of strings to strings, or one a container, got {mapping!r}"
            )
            raise ValueError(msg)
    return tuple(dict(mapping) for mapping in mappings if mapping or len(mappings) > 1)
