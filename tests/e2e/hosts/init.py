"""The first process of a host: makes the private folders, starts sshd, and ends when the lab does.

Runs as a program, in namespaces of its own, with the host's name, the folder of the lab, the bytes
that each private folder holds, and folders that are to be seen although a private one hides them.
"""

from __future__ import annotations

import os
import select
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

PRIVATE = {"/tmp": "1777", "/dev/shm": "1777", "/run": "755"}
KEYS = Path("/run/aiomas-lab")
LISTENS = b"Server listening"


def main(name: str, lab: str, size: str, *shown: str) -> None:
    # As the machine calls us: its own /proc is seen here for a moment yet.
    pid = os.readlink("/proc/self")  # noqa: PTH115 - a relative path, which is the number
    socket.sethostname(name)
    files = {
        "host_key": Path(lab, name).read_bytes(),
        "authorized_keys": Path(lab, "id.pub").read_bytes(),
    }
    mount(Path(lab, "hosts"), "/etc/hosts", "--bind")
    hidden = {path: os.open(path, os.O_PATH) for path in shown}
    for folder, mode in PRIVATE.items():
        mount("tmpfs", folder, "-t", "tmpfs", "-o", f"size={size},mode={mode}")
    mount("proc", "/proc", "-t", "proc")
    for path, handle in hidden.items():
        Path(path).mkdir(parents=True, exist_ok=True)
        # As it is, or mount would look up its name, at which is a new and empty folder now.
        mount(f"/proc/self/fd/{handle}", path, "--bind", "--no-canonicalize", pass_fds=[handle])
        os.close(handle)
    KEYS.mkdir(mode=0o700)
    for file, content in files.items():
        (KEYS / file).write_bytes(content)
        (KEYS / file).chmod(0o600)
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    serve(start_sshd(), pid)


def mount(what: Path | str, where: str, *options: str, pass_fds: list[int] | None = None) -> None:
    command = ["mount", *options, str(what), where]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL, pass_fds=pass_fds or ())


def start_sshd() -> int:
    """Start it, and return the end of a pipe with what it says."""
    Path("/run/sshd").mkdir()  # it insists on that
    program = shutil.which("sshd")
    assert program is not None
    command = [program, "-D", "-e", "-f", "/dev/null"]
    for option in (
        "ListenAddress=0.0.0.0:22",
        f"HostKey={KEYS}/host_key",
        f"AuthorizedKeysFile={KEYS}/authorized_keys",
        "StrictModes=no",  # folders above are anyone's, inside of the host
        "PermitRootLogin=prohibit-password",
        "PasswordAuthentication=no",
        "KbdInteractiveAuthentication=no",
        "UsePAM=no",
        "UseDNS=no",
        "PidFile=none",
        "MaxStartups=100",
    ):
        command += ["-o", option]
    said, says = os.pipe()
    subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=says)
    os.close(says)
    return said


def serve(sshd: int, pid: str) -> None:
    """Say *pid* as soon as sshd listens, and write its log on; return when the lab is closed."""
    signal.signal(signal.SIGCHLD, reap)
    guard, ready = 0, False
    sources = [guard, sshd]
    while True:
        readable = select.select(sources, [], [])[0]
        if guard in readable:
            return
        text = os.read(sshd, 65536)
        os.write(sys.stderr.fileno(), text)
        if not text:  # a test has ended it
            sources.remove(sshd)
        if LISTENS in text and not ready:
            ready = True
            os.write(sys.stdout.fileno(), f"{pid}\n".encode())


def reap(*_: object) -> None:
    """Wait for whoever has ended: here, all orphans are ours."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass


if __name__ == "__main__":
    main(*sys.argv[1:])
