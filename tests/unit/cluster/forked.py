"""What the processes do that tests of the fork server fork."""

# ruff: noqa: T201 - what they print is what the tests look at

from __future__ import annotations

import builtins
import importlib
import os
import signal
import subprocess
import sys
from pathlib import Path


def main(job, fds, guard_fd):
    globals()[job["do"]](fds, guard_fd, *job.get("args", ()))


def wait(fds, guard_fd):
    os.read(guard_fd, 1)


def returns(fds, guard_fd):
    print("on stdout")
    print("on stderr", file=sys.stderr)
    sys.stdout.write("without an end of the line")


def leaves(fds, guard_fd, code):
    sys.exit(code)


def fails(fds, guard_fd, name):
    raise getattr(builtins, name)("for a reason")


def fails_in_group(fds, guard_fd):
    raise ExceptionGroup("several", [ValueError(), ExceptionGroup("inner", [MemoryError()])])


def kills_itself(fds, guard_fd, number):
    os.kill(os.getpid(), number)
    signal.pause()


def writes(fds, guard_fd, text):
    for fd in fds:
        os.write(fd, text.encode())


def tells(fds, guard_fd):
    """Print what a child should not have inherited, and what it should have."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD):
        print(signal.Signals(number).name, signal.getsignal(number))
    print("blocked", signal.pthread_sigmask(signal.SIG_BLOCK, ()))
    print("wakeup", signal.set_wakeup_fd(-1))
    print("group", os.getpgid(0) == os.getpid())
    print("stdin", Path("/proc/self/fd/0").readlink())
    print("more open", [fd for fd in range(3, 100) if fd != guard_fd and is_open(fd)])
    inheritable = [fd for fd in (guard_fd, *fds) if os.get_inheritable(fd)]
    print("inheritable", inheritable)


def has_child(fds, guard_fd, code):
    """Start a process of the same group, tell its pid, and end as told or wait."""
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(30)"])
    print(child.pid)
    if code is None:
        wait(fds, guard_fd)
    os._exit(code)


def exits_on_sigterm(fds, guard_fd):
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(5))
    print("ready")
    signal.pause()


def imports(fds, guard_fd, name):
    print(importlib.import_module(name).PID)


def is_open(fd):
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True
