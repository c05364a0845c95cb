"""What processes use is what the system says, over a while and of the right process."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from typing import Any

import psutil
import pytest

from aiomas.cluster import loads as loads_module
from aiomas.cluster.loads import Loads, used


class FakeChild:
    def __init__(self, index=0, pid=100):
        self.index, self.pid, self.running_pid, self.uptime = index, pid, pid, 2.0


@pytest.fixture
def system(monkeypatch):
    """The CPU seconds of processes, by their ids, and what the clock says."""

    class System:
        def __init__(self):
            self.cpu: dict[int | None, float] = {}
            self.now = 1000.0
            self.asked = 0

        def used(self, pid):
            self.asked += 1
            return {"cpu": self.cpu[pid]} if pid in self.cpu else {}

    system = System()
    monkeypatch.setattr(loads_module, "used", system.used)
    monkeypatch.setattr(time, "monotonic", lambda: system.now)
    return system


class TestLoads:
    def test_the_first_is_that_since_its_start(self, system):
        child: Any = FakeChild()
        system.cpu[100] = 1.5
        assert Loads().of(child) == 0.75

    def test_later_ones_are_those_since_the_last_look(self, system):
        child: Any = FakeChild()
        loads = Loads()
        system.cpu[100] = 1.0
        loads.of(child)
        system.now, system.cpu[100] = 1001.0, 1.25
        assert loads.of(child) == 0.25
        system.now, system.cpu[100] = 1003.0, 1.25
        assert loads.of(child) == 0.0

    def test_looks_that_come_too_soon_have_the_last_value(self, system):
        """The system counts in hundredths: over a millisecond, it would be all or nothing."""
        child: Any = FakeChild()
        loads = Loads()
        system.cpu[100] = 1.0
        loads.of(child)
        system.now, system.cpu[100] = 1000.4, 1.4
        assert loads.of(child) == 0.5
        assert system.asked == 1

    def test_a_process_that_was_started_again_counts_from_its_start(self, system):
        child: Any = FakeChild()
        loads = Loads()
        system.cpu[100] = 50.0
        loads.of(child)
        system.now = 1010.0
        child.pid = child.running_pid = 101
        child.uptime = 4.0
        system.cpu[101] = 1.0
        assert loads.of(child) == 0.25

    def test_one_that_has_just_started_has_none(self, system):
        child: Any = FakeChild()
        child.uptime = 0.1
        system.cpu[100] = 0.1
        assert Loads().of(child) == 0.0

    def test_one_that_does_not_run_has_none(self, system):
        child: Any = FakeChild()
        child.running_pid = None
        assert Loads().of(child) == 0.0

    def test_containers_do_not_mix(self, system):
        loads = Loads()
        first: Any = FakeChild(0, 100)
        second: Any = FakeChild(1, 101)
        system.cpu = {100: 2.0, 101: 1.0}
        assert [loads.of(first), loads.of(second)] == [1.0, 0.5]


class TestUsed:
    def test_it_is_what_the_system_says(self):
        found = used(os.getpid())
        times = psutil.Process().cpu_times()
        assert 0 < found["cpu"] <= times.user + times.system
        assert found["rss"] > 2**20

    def test_of_no_process_nothing_is_known(self):
        assert used(None) == {}

    def test_of_one_that_has_ended_nothing_is_known(self):
        process = subprocess.Popen([sys.executable, "-c", ""])
        process.wait(30)
        assert used(process.pid) == {}
