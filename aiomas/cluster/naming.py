"""By what name another process can import a class or a function that the driver has."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from aiomas import codecs
from aiomas.cluster.loading import file_of

CODECS = {
    "json": codecs.JSON,
    "msgpack": codecs.MsgPack,
    "msgpack-blosc": codecs.MsgPackBlosc,
}


def codec_name(codec: str | type[codecs.Codec]) -> str:
    """Return the importable name of *codec*, a name in :data:`CODECS` or a class.

    Raises:
        ValueError: there is no such codec.
    """
    if isinstance(codec, str):
        if codec not in CODECS:
            msg = f"codec must be one of {', '.join(CODECS)}, got {codec!r}"
            raise ValueError(msg)
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
    if isinstance(serializers, str):
        msg = f"extra_serializers must be a list of them, got {serializers!r}"
        raise ValueError(msg)  # noqa: TRY004 - one kind of error for all parameters
    return tuple(s if isinstance(s, str) else importable_name(s) for s in serializers)


def importable_name(obj: Any) -> str:
    """Return the name by which another process can import *obj*, a class or a function.

    What is defined in the main script, or in a file that was loaded by its path, is named by the
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
    return f"{file_of(module) or module}:{qualname}"


def _main_module(obj: Any) -> str:
    main = sys.modules["__main__"]
    spec = getattr(main, "__spec__", None)
    if spec is not None and spec.name != "__main__":
        return str(spec.name)
    if spec is not None:
        msg = (
            f"{obj!r} was defined in the __main__.py of a directory or an archive that was run, "
            f"which other processes cannot import: write it into a module beside that, and import "
            f"it from there"
        )
        raise ValueError(msg)
    file = getattr(main, "__file__", None)
    if file is None or not Path(file).exists():
        msg = (
            f"{obj!r} was typed into an interactive session or a notebook, so other processes "
            f"cannot import it: write it into a module (in a notebook, begin the cell with "
            f"%%writefile agents.py) and import it from there"
        )
        raise ValueError(msg)
    return str(Path(file).resolve())
