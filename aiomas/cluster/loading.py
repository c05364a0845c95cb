"""Finding, in a container process, the classes and functions that the driver named."""

from __future__ import annotations

import importlib.util
import os
import sys
import zlib
from pathlib import Path
from typing import Any

from aiomas import util
from aiomas.exceptions import AiomasError


def load(name: str) -> Any:
    """Return what *name* stands for: ``"module:attribute"`` or ``"/path/file.py:attribute"``.

    Raises:
        ValueError: *name* has another form.
        ImportError: the module or the file cannot be imported.
        AttributeError: it has no such attribute.
    """
    module, colon, qualname = name.rpartition(":")
    if colon and module.endswith(".py"):
        return util.obj_from_str(f"{_import_file(Path(module).resolve())}:{qualname}")
    return util.obj_from_str(name)


def file_of(module: str) -> Path | None:
    """Return the file that was imported by :func:`load` as *module*; ``None`` if none was."""
    file = getattr(sys.modules.get(module), "__file__", None)
    return Path(file) if file is not None and _module_name(Path(file)) == module else None


def _module_name(path: Path) -> str:
    # The number keeps files of the same name in different folders apart.
    return f"__aiomas_{path.stem}_{zlib.crc32(os.fsencode(path)):08x}__"


def _import_file(path: Path) -> str:
    """Import the file under a name of its own, once; return that name."""
    # As with multiprocessing, `if __name__ == "__main__"` is false there.
    name = _module_name(path)
    if name in sys.modules:
        return name
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None or not path.exists():
        msg = f"There is no Python file {path}"
        raise ImportError(msg)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException as exc:
        del sys.modules[name]
        if _is_of_a_program(exc):
            exc.add_note(
                f"This was raised while a container process imported {path}. A script that starts "
                f"a cluster has to do that below: if __name__ == '__main__':"
            )
        raise
    return name


def _is_of_a_program(exc: BaseException) -> bool:
    """Whether it looks as if an event loop or a cluster was started, which a module does not."""
    return isinstance(exc, AiomasError) or (
        isinstance(exc, RuntimeError) and "event loop" in str(exc)
    )
