"""What a cluster is to be: values that are checked before anything is started."""

from __future__ import annotations

import dataclasses
import importlib.util
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from aiomas import codecs
from aiomas.clocks import ExternalClock
from aiomas.cluster.loading import file_of

TRANSPORTS = ("unix", "tcp")
LOOPS = ("auto", "asyncio", "uvloop")
CODECS = {
    "json": codecs.JSON,
    "msgpack": codecs.MsgPack,
    "msgpack-blosc": codecs.MsgPackBlosc,
}


@dataclasses.dataclass(frozen=True, slots=True)
class ClusterSpec:
    """A cluster on this machine; all names are ``"module:attribute"`` or ``"/file.py:attribute"``.

    Raises:
        ValueError: a field has a value that it cannot have; the message names the field.
    """

    containers: int
    transport: str
    codec: str
    extra_serializers: tuple[str, ...]
    loop: str
    clock: str | None

    def __post_init__(self) -> None:
        if not isinstance(self.containers, int) or self.containers < 1:
            msg = f"containers must be a number from 1 up, got {self.containers!r}"
            raise ValueError(msg)
        _check_choice("transport", self.transport, TRANSPORTS)
        _check_choice("loop", self.loop, LOOPS)
        if self.loop == "uvloop" and importlib.util.find_spec("uvloop") is None:
            msg = "loop='uvloop' needs uvloop, which is not installed; use loop='auto'"
            raise ValueError(msg)

    @property
    def uses_uvloop(self) -> bool:
        """Whether the containers run uvloop."""
        return self.loop == "uvloop" or (
            self.loop == "auto" and importlib.util.find_spec("uvloop") is not None
        )


def codec_name(codec: str | type[codecs.Codec]) -> str:
    """Return the importable name of *codec*, a name in :data:`CODECS` or a class.

    Raises:
        ValueError: there is no such codec.
    """
    if isinstance(codec, str):
        _check_choice("codec", codec, tuple(CODECS))
        codec = CODECS[codec]
    if not (isinstance(codec, type) and issubclass(codec, codecs.Codec)):
        msg = f"codec must be one of {', '.join(CODECS)} or a subclass of Codec, got {codec!r}"
        raise ValueError(msg)  # noqa: TRY004 - one kind of error for all parameters
    return importable_name(codec)


def serializer_names(serializers: Iterable[str | Callable[[], Any]]) -> tuple[str, ...]:
    """Return the importable names of *serializers*.

    Raises:
        ValueError: one of them cannot be imported by a name.
    """
    return tuple(s if isinstance(s, str) else importable_name(s) for s in serializers)


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


def importable_name(obj: Any) -> str:
    """Return the name by which another process can import *obj*, a class or a function.

    What is defined in the main script, or in a file that was loaded by its path, is named by that
    file.

    Raises:
        ValueError: there is no such name.
    """
    module, qualname = getattr(obj, "__module__", None), getattr(obj, "__qualname__", None)
    if not (module and qualname) or "<" in qualname:
        msg = (
            f"{obj!r} cannot be imported by another process: define it at the top level of a module"
        )
        raise ValueError(msg)
    if module == "__main__":
        module = _main_module(obj)
    elif file := file_of(module):
        module = str(file)
    return f"{module}:{qualname}"


def _main_module(obj: Any) -> str:
    main = sys.modules["__main__"]
    spec = getattr(main, "__spec__", None)
    if spec is not None:
        return str(spec.name)
    file = getattr(main, "__file__", None)
    if file is None or not Path(file).exists():
        msg = (
            f"{obj!r} was typed into an interactive session, so other processes cannot import "
            f"it: define it in a module"
        )
        raise ValueError(msg)
    return str(Path(file).resolve())


def _check_choice(field: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        msg = f"{field} must be one of {', '.join(choices)}, got {value!r}"
        raise ValueError(msg)
