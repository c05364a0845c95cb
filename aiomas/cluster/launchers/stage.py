"""The program that is sent to a host: says what it finds there, and becomes a supervisor if told.

Its source text is sent (see :mod:`aiomas.cluster.launchers.bootstrap`), as nothing of ours may be
there.  So it imports only the standard library until it has looked, and has no names of ours.
"""

from __future__ import annotations

import contextlib
import gc
import importlib.machinery
import importlib.metadata
import importlib.util
import json
import os
import platform
import socket
import sys
import time
from typing import Any

_LAST_STANDARD_STREAM = 2
_ROOM = 65536  # bytes that have to be free for the files of a run


def main(nonce: str, source: str, asked: str = "") -> None:
    """Answer the driver, and serve it if it says so.

    Args:
        nonce: what our answer begins with, so that it can be told from all else that is printed.
        source: the text of this program.
        asked: what the driver has asked; by default it is read.
    """
    line = asked or _line(0)
    if not line:  # the driver has hung up
        return
    question = json.loads(line)
    if env := question.pop("env"):
        _begin_again(nonce, source, json.dumps(question | {"env": {}}), env)
    incoming, outgoing = _take_standard_streams()
    gc.disable()  # while there is nothing to be collected
    _answer(outgoing, nonce, _look_around(question["cwd"]))
    line = _line(incoming)
    if not line:
        return
    _answer(outgoing, nonce, {"clock": time.time()})  # at once: on the way was only the question
    sys.argv[:] = json.loads(line)["argv"]
    from aiomas.cluster.boot import main_over_pipes  # noqa: PLC0415 - it is there, as we know now

    main_over_pipes(incoming, outgoing)


def _line(fd: int) -> bytes:
    """Read a line, and nothing of what comes after it; an incomplete one is none."""
    line: bytes = open(fd, "rb", buffering=0, closefd=False).readline()  # noqa: SIM115 - stays open
    return line if line.endswith(b"\n") else b""


def _answer(fd: int, nonce: str, content: dict[str, Any]) -> None:
    # In two parts, so that what only repeats this program does not look like an answer.
    data = f"\naiomas:{nonce} {json.dumps(content)}\n".encode()
    while data:
        data = data[os.write(fd, data) :]


def _begin_again(nonce: str, source: str, asked: str, env: dict[str, str]) -> None:
    """Start the interpreter with the variables of the user: some are looked at only then."""
    program = f"{source}\nmain(*sys.argv[1:])\n"
    arguments = [sys.executable, "-P", "-c", program, nonce, "", asked]
    os.execve(sys.executable, arguments, os.environ | env)  # noqa: S606 - it is we


def _take_standard_streams() -> tuple[int, int]:
    """Keep the stream to the driver for us alone: whatever is printed goes elsewhere from now on.

    Returns:
        The descriptors to read from and to write to.
    """
    while (fd := os.open(os.devnull, os.O_RDWR)) <= _LAST_STANDARD_STREAM:
        os.set_inheritable(fd, True)  # it was closed
    incoming, outgoing = os.dup(0), os.dup(1)
    os.dup2(fd, 0)
    os.dup2(2, 1)
    os.close(fd)
    return incoming, outgoing


def _look_around(cwd: str | None) -> dict[str, Any]:
    """Return what is found here; with ``trouble`` if that keeps us from serving."""
    usable = getattr(os, "sched_getaffinity", None)
    found: dict[str, Any] = {
        "python": platform.python_version(),
        "path": sys.executable,
        "hostname": socket.gethostname(),
        "cores": len(usable(0)) if usable else os.cpu_count() or 1,
        "pid": os.getpid(),
        "ssh": os.environ.get("SSH_CONNECTION"),
        "aiomas": None,
        "control": None,
    }
    if cwd is not None:
        try:
            os.chdir(os.path.expanduser(cwd))  # noqa: PTH111 - a name is all that is needed
            sys.path.insert(0, os.getcwd())  # noqa: PTH109 - as above
        except OSError as exc:
            return found | {"trouble": f"its directory {cwd!r} cannot be used ({exc.strerror})"}
    with contextlib.suppress(FileNotFoundError):  # where we began was removed
        found["cwd"] = os.getcwd()  # noqa: PTH109 - as above
    try:
        found |= _versions()
    except ImportError as exc:
        return found | {"trouble": f"{sys.executable} cannot import aiomas: {exc}"}
    return found | ({"trouble": _full_disk()} if found["control"] is not None else {})


def _versions() -> dict[str, Any]:
    """Return the versions of the aiomas that is here, and of what it speaks."""
    spec = importlib.util.find_spec("aiomas")
    if spec is None or spec.origin is None:  # the latter is any folder of that name
        return {}
    places = spec.submodule_search_locations
    if importlib.machinery.PathFinder.find_spec("aiomas.cluster", places) is None:
        try:  # an old one may not even be importable with this Python
            return {"aiomas": importlib.metadata.version("aiomas")}
        except importlib.metadata.PackageNotFoundError:
            return {"aiomas": "of an unknown version"}
    import aiomas  # noqa: PLC0415 - as said at the top
    from aiomas._hello import VERSION  # noqa: PLC0415
    from aiomas.cluster import boot  # noqa: PLC0415

    control = getattr(boot, "CONTROL_VERSION", None)
    return {"aiomas": aiomas.__version__, "control": control, "wire": VERSION}


def _full_disk() -> str | None:
    """Return what is wrong with the places for the files of runs, if nothing fits into one."""
    import errno  # noqa: PLC0415 - what the interpreter itself does not need
    import tempfile  # noqa: PLC0415

    try:
        from aiomas.cluster.basedir import bases  # noqa: PLC0415 - as above

        folders = [folder for folder, _ in bases()]
    except ImportError:  # it is of another version, as the driver will say
        return None
    except FileNotFoundError as exc:  # so a full disk looks if it has all temporary directories
        return exc.strerror
    for folder in folders:
        place = next(path for path in (folder, *folder.parents) if path.is_dir())
        try:
            with tempfile.TemporaryFile(dir=place, buffering=0) as file:
                file.write(bytes(_ROOM))
        except OSError as exc:  # of other troubles the supervisor can say more
            if exc.errno in {errno.ENOSPC, errno.EDQUOT}:
                return f"its disk is full: nothing can be written to {place} ({exc.strerror})"
    return None
