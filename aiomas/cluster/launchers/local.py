"""Starts the supervisor on this machine."""

from __future__ import annotations

import json
import socket
import subprocess
import sys

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
        argument = json.dumps([theirs.fileno(), sys.path])
        try:
            with theirs:
                # Not by asyncio, which leaves waiting for children to the policy of the program.
                process = subprocess.Popen(  # noqa: ASYNC220, S603 - takes a moment; our own program
                    [sys.executable, "-c", _BOOT, argument],
                    stdin=subprocess.DEVNULL,
                    pass_fds=(theirs.fileno(),),
                    start_new_session=True,  # so that it does not see Ctrl-C
                )
        except BaseException:
            ours.close()
            raise
        return Link(ours, end_of(process.wait), process.kill)
