"""Starts the supervisor on this machine."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys

from aiomas.cluster.certificates import PASSPHRASE
from aiomas.cluster.launchers.base import Link
from aiomas.cluster.reaping import end_of

# The new process gets our sys.path before it imports anything of ours.
_BOOT = """\
import gc, json, sys
gc.disable()  # while there is nothing to be collected
control, sys.path[:] = json.loads(sys.argv.pop())
from aiomas.cluster.supervisor import main
main(control)
"""


class LocalLauncher:
    """Starts supervisors as child processes, with our ``sys.path`` and working directory."""

    async def launch(self) -> Link:
        """Start a supervisor; see :class:`~aiomas.cluster.launchers.base.Launcher`."""
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                # "" is the working directory, which containers may have another one of.
                path = [entry or os.getcwd() for entry in sys.path]  # noqa: PTH109
                # Not by asyncio, which leaves waiting for children to the policy of the program.
                process = subprocess.Popen(  # noqa: ASYNC220, S603 - takes a moment; our own program
                    [sys.executable, "-c", _BOOT, json.dumps([theirs.fileno(), path])],
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
