"""Tools for tests of agents: virtual time, connections with faults, and fixtures for pytest.

The fixtures are in :mod:`aiomas.testing.fixtures`, the only part that needs pytest.
"""

from aiomas.testing.faults import Connection, Direction, Fault, Faults, FaultyQueue, Rates
from aiomas.testing.virtual_time import VirtualClock, VirtualTimeLoop, run

__all__ = [
    "Connection",
    "Direction",
    "Fault",
    "Faults",
    "FaultyQueue",
    "Rates",
    "VirtualClock",
    "VirtualTimeLoop",
    "run",
]
