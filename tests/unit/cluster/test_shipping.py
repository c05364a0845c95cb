"""A supervisor takes the user's modules before any are imported, and leaves nothing half done."""

from __future__ import annotations

import asyncio
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from aiomas.cluster import shipping as shipping_module
from aiomas.cluster.shipping import Shipping, look_in
from aiomas.cluster.sync import Bundle
from aiomas.exceptions import ClusterError
from tests.unit.cluster.fakes import BOUND, until


class FakeFork:
    """What imports modules for containers."""

    def __init__(self):
        self.prepared = []
        self.error = None

    async def prepare(self, target, argument):
        await asyncio.sleep(0)
        if self.error is not None:
            raise self.error
        self.prepared.append((target, argument))


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def bundle(tmp_path):
    source = tmp_path / "source"
    (source / "pkg").mkdir(parents=True)
    (source / "agents.py").write_text("A = 1\n")
    (source / "pkg/__init__.py").write_text("")
    (source / "pkg/large.py").write_text("# " + "x" * 300_000)
    return Bundle.of_paths([source / "agents.py", source / "pkg"])


@pytest.fixture
def fork():
    return FakeFork()


@pytest.fixture
async def shipping(tmp_path, fork):
    directory = tmp_path / "run"
    directory.mkdir(mode=0o700)
    shipping = Shipping()
    any_fork: Any = fork
    shipping.begin(directory, any_fork)
    yield shipping
    await shipping.close()


async def value(awaitable):
    reply = await awaitable
    assert "error" not in reply
    return reply["value"]


async def ship(shipping, bundle):
    missing = await value(shipping.missing(bundle.manifest()))
    for batch in bundle.batches(missing):
        await value(shipping.put(batch))
    return missing, await value(shipping.build())


async def test_modules_are_there_and_found_before_it_is_said_so(shipping, bundle, fork, tmp_path):
    assert not shipping.arrived.is_set()
    missing, root = await ship(shipping, bundle)
    assert sorted(missing) == sorted(entry.checksum for entry in bundle.entries.values())
    assert root == str(tmp_path / "run/modules")
    assert Path(root, "agents.py").read_text() == "A = 1\n"
    assert len(Path(root, "pkg/large.py").read_text()) == 300_002
    assert fork.prepared == [("aiomas.cluster.shipping:look_in", root)]
    assert shipping.arrived.is_set()


async def test_what_is_known_is_not_sent_again(shipping, bundle, tmp_path, fork):
    await ship(shipping, bundle)
    other = Shipping()
    (tmp_path / "other").mkdir(mode=0o700)
    other.begin(tmp_path / "other", fork)
    missing, root = await ship(other, bundle)
    assert missing == []
    assert Path(root, "agents.py").read_text() == "A = 1\n"


async def test_a_tree_with_a_hole_is_not_built(shipping, bundle, fork, tmp_path):
    await value(shipping.missing(bundle.manifest()))
    reply = await shipping.build()
    assert reply["error"]["message"] == "3 of 3 contents of the modules are missing"
    assert not shipping.arrived.is_set()
    assert fork.prepared == []
    assert not (tmp_path / "run/modules").exists()


async def test_pieces_that_are_wrong_are_refused(shipping, bundle):
    await value(shipping.missing(bundle.manifest()))
    reply = await shipping.put([("0" * 64, 0, b"x")])
    assert reply["error"]["message"]


async def test_where_the_modules_cannot_be_found_they_have_not_arrived(shipping, bundle, fork):
    fork.error = ClusterError("no threads, please")
    missing = await value(shipping.missing(bundle.manifest()))
    for batch in bundle.batches(missing):
        await value(shipping.put(batch))
    assert (await shipping.build())["error"] == {"message": "no threads, please"}
    assert not shipping.arrived.is_set()


async def test_of_what_did_not_become_a_tree_nothing_is_left(shipping, bundle, tmp_path):
    missing = await value(shipping.missing(bundle.manifest()))
    await value(shipping.put(next(bundle.batches(missing))))
    await shipping.close()
    await shipping.close()
    assert list((tmp_path / "run").iterdir()) == []


async def test_who_begins_again_closes_what_was_open(shipping, bundle):
    first = await value(shipping.missing(bundle.manifest()))
    former = shipping._store
    second = await value(shipping.missing(bundle.manifest()))
    assert sorted(first) == sorted(second)
    assert former._descriptor == -1


async def test_nothing_was_opened_if_nothing_was_sent():
    await Shipping().close()


async def test_what_is_cancelled_ends_before_anything_else_begins(shipping, bundle, monkeypatch):
    """A thread that goes on must not have its files closed."""
    goes_on, begun, order = threading.Event(), threading.Event(), []
    await value(shipping.missing(bundle.manifest()))

    def put(*_):
        begun.set()
        assert goes_on.wait(BOUND)
        order.append("put")

    monkeypatch.setattr(shipping._store, "put", put)
    putting = asyncio.create_task(shipping.put([("0" * 64, 0, b"")]))
    await until(begun.is_set)
    putting.cancel()
    closing = asyncio.create_task(shipping.close())
    closing.add_done_callback(lambda _: order.append("close"))
    await asyncio.sleep(0.02)
    assert not putting.done()
    goes_on.set()
    with pytest.raises(asyncio.CancelledError):
        await putting
    await closing
    await asyncio.sleep(0)
    assert order == ["put", "close"]


def test_what_was_sent_comes_before_all_else(monkeypatch):
    monkeypatch.setattr(sys, "path", ["/a", "/b"])
    look_in("/run/modules")
    assert sys.path == ["/run/modules", "/a", "/b"]


def test_the_function_that_the_fork_server_calls_is_there():
    module, _, name = "aiomas.cluster.shipping:look_in".partition(":")
    assert shipping_module.__name__ == module
    assert getattr(shipping_module, name) is look_in
