"""Remote procedure calls and multi-agent systems on top of asyncio.

This module only gathers the most used names; see :mod:`aiomas.agent`, :mod:`aiomas.rpc`,
:mod:`aiomas.channel`, :mod:`aiomas.codecs`, :mod:`aiomas.clocks`, :mod:`aiomas.local_queue`,
:mod:`aiomas.subproc` and :mod:`aiomas.cluster` for all others.
"""

from aiomas import (
    agent,
    channel,
    clocks,
    codecs,
    exceptions,
    local_queue,
    rpc,
    subproc,
    util,
)
from aiomas._limits import Limits
from aiomas.agent import Agent, Container, SSLCerts
from aiomas.clocks import AsyncioClock, ExternalClock
from aiomas.codecs import JSON, MsgPack, MsgPackBlosc, serializable
from aiomas.exceptions import AiomasError, Outcome, RemoteException
from aiomas.local_queue import get_queue
from aiomas.rpc import current_call, expose, with_options
from aiomas.subproc import agent_factory
from aiomas.util import create_task, make_ssl_client_context, make_ssl_server_context, run

__version__ = "3.0.0.dev0"

__all__ = [
    "JSON",
    "Agent",
    "AiomasError",
    "AsyncioClock",
    "Container",
    "ExternalClock",
    "Limits",
    "MsgPack",
    "MsgPackBlosc",
    "Outcome",
    "RemoteException",
    "SSLCerts",
    "agent",
    "agent_factory",
    "channel",
    "clocks",
    "codecs",
    "create_task",
    "current_call",
    "exceptions",
    "expose",
    "get_queue",
    "local_queue",
    "make_ssl_client_context",
    "make_ssl_server_context",
    "rpc",
    "run",
    "serializable",
    "subproc",
    "util",
    "with_options",
]

# "async" was an ordinary name until Python 3.7; it is reached with getattr() today.
globals()["async"] = create_task
