"""What processes use, as the system counts it."""

from __future__ import annotations

import time
from typing import Any, NamedTuple

from aiomas.cluster.child import Child

_WINDOW = 0.5  # seconds over which loads are taken: the system counts in hundredths


class _Load(NamedTuple):
    """What a process had used at some time."""

    pid: int
    used: float  # seconds of CPU
    time: float
    share: float  # of a core, before that


class Loads:
    """The shares of cores that containers have used lately."""

    def __init__(self) -> None:
        self._last: dict[int, _Load] = {}

    def of(self, child: Child) -> float:
        """Return the share of a core that the process of a container has used."""
        now = time.monotonic()
        last = self._last.get(child.index)
        if last is None or last.pid != child.pid:
            last = _Load(child.pid, 0.0, now - child.uptime, 0.0)
        if now - last.time >= _WINDOW:
            cpu: float = used(child.running_pid).get("cpu", 0.0)
            last = _Load(child.pid, cpu, now, (cpu - last.used) / (now - last.time))
            self._last[child.index] = last
        return last.share


def used(pid: int | None) -> dict[str, Any]:
    """Return what a process has used: seconds of CPU, bytes of memory."""
    if pid is None:
        return {}
    import psutil  # noqa: PLC0415 - 15 ms that a start need not spend

    try:
        process = psutil.Process(pid)
        with process.oneshot():
            times = process.cpu_times()
            return {"cpu": times.user + times.system, "rss": process.memory_info().rss}
    except psutil.Error:
        return {}
