"""Forks the programs beside it; for Python 3.8 and 3.11 alike.

What takes time, to start an interpreter and to import the old aiomas, is done once for all of them.
Each program runs in a new process all the same.

Arguments: the number of a socket, and the modules to import.  On the socket comes a line of JSON
for each program, its path and its arguments, with what will be its input and output; the answer is
the number of its process.
"""

import importlib
import json
import os
import runpy
import signal
import socket
import struct
import sys


def main():
    orders = socket.socket(fileno=int(sys.argv[1]))
    for name in sys.argv[2:]:
        importlib.import_module(name)
    signal.signal(signal.SIGCHLD, lambda *_: reap())
    while True:
        line, ancillary, _, _ = orders.recvmsg(65536, socket.CMSG_SPACE(4))
        if not line:
            break
        (stream,) = struct.unpack("i", ancillary[0][2])
        pid = os.fork()
        if not pid:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            orders.close()
            run(stream, *json.loads(line))
            break
        os.close(stream)
        orders.sendall(b"%d\n" % pid)


def reap():
    """Let those go that have ended."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass


def run(stream, program, *args):
    """Run a program as if it had been started alone."""
    os.dup2(stream, 0)
    os.dup2(stream, 1)
    os.close(stream)
    sys.argv = [program, *args]
    sys.path[0] = os.path.dirname(program)
    runpy.run_path(program, run_name="__main__")


main()
