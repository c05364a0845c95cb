"""The public names: none vanishes and none is added unless somebody wrote it here, on purpose."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import pytest

import aiomas

SURFACE = {
    "aiomas": """
        Agent AiomasError AsyncioClock Container ExternalClock JSON Limits MsgPack MsgPackBlosc
        Outcome RemoteException SSLCerts agent agent_factory channel clocks codecs create_task
        current_call exceptions expose get_queue local_queue make_ssl_client_context
        make_ssl_server_context rpc run serializable subproc util with_options
        """,
    "aiomas.agent": "Agent Container ContainerStats SSLCerts url_of",
    "aiomas.channel": """
        Channel ChannelProtocol DEFAULT_CODEC EXCEPTION REQUEST RESULT Request Server
        open_connection start_server
        """,
    "aiomas.clocks": "AsyncioClock BaseClock ExternalClock TimerHandle",
    "aiomas.cluster": """
        Cluster ClusterError ClusterEvent CommandLauncher ContainerDied ContainerInfo EventKind
        HostInfo HostSpec PartialResult RayLauncher RestartPolicy SSHLauncher SpawnError checkpoint
        """,
    "aiomas.codecs": """
        Codec JSON MsgPack MsgPackBlosc dataclass_serializer datetime_serializer decimal_serializer
        enum_serializer numpy_serializer serializable uuid_serializer
        """,
    "aiomas.exceptions": """
        AddressError AgentNotFoundError AiomasError ClusterError ConnectTimeout ConnectionLost
        ContainerClosedError ContainerDied DeadlineExceeded DecodeError HandshakeError Outcome
        Overloaded PartialResult PeerUnresponsive PermissionDenied ProtocolError RemoteException
        RemoteLookupError SerializationError ShuttingDown SpawnError
        """,
    "aiomas.local_queue": """
        LocalQueue LocalQueueServer LocalQueueTransport add_queue clear_queue_cache
        create_connection create_server get_queue
        """,
    "aiomas.routing": "Router RoutingDict Service ServiceDict expose",
    "aiomas.rpc": """
        Call Proxy Router RoutingDict RpcClient Service ServiceDict current_call expose
        open_connection rpc_service rpc_service_process start_server with_options
        """,
    "aiomas.subproc": "Manager agent_factory start",
    "aiomas.testing": """
        Connection Direction Fault Faults FaultyQueue Rates VirtualClock VirtualTimeLoop run
        """,
    "aiomas.testing.fixtures": "container container_options container_pair",
    "aiomas.tls": "PeerIdentity SSLCerts make_ssl_client_context make_ssl_server_context",
    "aiomas.util": """
        arrow_serializer create_task current_loop make_ssl_client_context make_ssl_server_context
        obj_from_str run
        """,
}
"""The public modules with the names in their ``__all__``."""

CONSTANTS = {"DEFAULT_CODEC", "EXCEPTION", "REQUEST", "RESULT"}
DOCUMENTED = [
    pytest.param(getattr(importlib.import_module(module), name), id=f"{module}:{name}")
    for module, names in SURFACE.items()
    for name in names.split()
    if name not in CONSTANTS
]


def members(cls: type) -> dict[str, Any]:
    """Return the public attributes that *cls* itself defines, inherited ones not."""
    return {
        name: member
        for name, member in vars(cls).items()
        if not name.startswith("_")
        and (callable(member) or isinstance(member, property | classmethod | staticmethod))
    }


@pytest.mark.parametrize("name", SURFACE)
def test_public_names_of_a_module_are_these(name):
    assert sorted(importlib.import_module(name).__all__) == sorted(SURFACE[name].split())


def test_public_modules_are_these():
    found = {f"aiomas.{info.name}" for info in pkgutil.iter_modules(aiomas.__path__)}

    public = {name for name in found if not name.startswith("aiomas._")}
    parts_of_public = {name for name in SURFACE if name.count(".") > 1}
    assert public - {"aiomas.cli"} == SURFACE.keys() - {"aiomas"} - parts_of_public


def test_star_import_gives_what_all_says():
    namespace: dict[str, Any] = {}

    exec("from aiomas import *", namespace)

    assert namespace.keys() - {"__builtins__"} == set(aiomas.__all__)


@pytest.mark.parametrize("thing", DOCUMENTED)
def test_public_things_are_documented(thing):
    things = {"": thing}
    if inspect.isclass(thing):
        things |= {name: getattr(thing, name) for name in members(thing)}

    assert [name for name, member in things.items() if not inspect.getdoc(member)] == []


def test_version_is_where_the_build_reads_it():
    text = Path(aiomas.__file__).read_text(encoding="utf-8")

    assert re.search(rf'^__version__ = "{re.escape(aiomas.__version__)}"$', text, re.MULTILINE)


def test_old_names_of_extras_can_be_installed():
    extras = distribution("aiomas").metadata.get_all("Provides-Extra")

    assert {"mp", "mpb", "numpy", "ray"} <= set(extras or ())


def test_package_says_that_it_has_types():
    assert (Path(aiomas.__file__).parent / "py.typed").exists()
