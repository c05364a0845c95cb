"""Starts the supervisor on this machine."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys

from aiomas.cluster.certificates import PASSPHRASE
from aiomas.cluster.hosts import HostSpec
from aiomas.cluster.launchers.base import Launcher, Link
from aiomas.cluster.reaping import end_of

# The new process gets our sys.path before it imports anything of ours.  What comes before that is
# Python's own, as the working directory is not in its path (-P).
_BOOT = """\
import gc, json, sys
gc.disable()  # while there is nothing to be collected
control, sys.path[:], sys.argv[:] = json.loads(sys.argv.pop())
from aiomas.cluster.boot import main
main(control)
"""
# Those of sys.flags that an option stands for; it is given as often as the flag says.
_OPTIONS = {
    "bytes_warning": "b",
    "dont_write_bytecode": "B",
    "ignore_environment": "E",
    "isolated": "I",
    "no_site": "S",
    "no_user_site": "s",
    "optimize": "O",
    "verbose": "v",
}


class LocalLauncher(Launcher):
    """Starts supervisors as child processes, with our ``sys.path`` and working directory.

    They run with the options that this interpreter was started with (``-O``, ``-W``, ``-X``...).
    """

    async def launch(
        self,
        host: HostSpec,  # noqa: ARG002 - it is this one
        timeout: float,  # noqa: ARG002 - nothing is waited for
    ) -> Link:
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                # The name of the program is that of ours; its arguments are for us alone.
                start = json.dumps([theirs.fileno(), _path(), sys.argv[:1]])
                # Not by asyncio, which leaves waiting for children to the policy of the program.
                process = subprocess.Popen(  # noqa: ASYNC220, S603 - takes a moment; our own program
                    [sys.executable, *_interpreter_options(), "-c", _BOOT, start],
                    # Signing is for us alone; what runs in the containers is code of users.
                    env={name: value for name, value in os.environ.items() if name != PASSPHRASE},
                    stdin=subprocess.DEVNULL,
                    pass_fds=(theirs.fileno(),),
                    start_new_session=True,  # so that it does not see Ctrl-C
                )
        except BaseException:
            ours.close()
            raise
        return Link(ours, end_of(process.wait), process.kill)


def _path() -> list[str]:
    """Return our ``sys.path``; containers may have another working directory than we."""
    try:
        here = os.getcwd()  # noqa: PTH109 - a name is all that is needed
    except FileNotFoundError:  # it was removed, so nothing is imported from there
        here = None
    found = []
    for entry in sys.path:
        # The import system takes no other kinds, not even those that become a string.
        path = os.fspath(entry) if isinstance(entry, os.PathLike) else entry
        if not isinstance(path, str):
            continue
        if os.path.isabs(path):  # noqa: PTH117 - as above
            found.append(path)
        elif here is not None:
            found.append(os.path.join(here, path) if path else here)  # noqa: PTH118 - as above
    return found


def _interpreter_options() -> list[str]:
    """Return the options with which a new interpreter does as this one does."""
    options = ["-P"]
    for name, letter in _OPTIONS.items():
        if times := int(getattr(sys.flags, name)):
            options.append("-" + letter * times)
    options += [f"-W{warning}" for warning in sys.warnoptions]
    for name, value in sys._xoptions.items():  # noqa: SLF001 - documented
        options.append(f"-X{name}" if value is True else f"-X{name}={value}")
    return options
