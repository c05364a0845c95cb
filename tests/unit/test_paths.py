"""What is remembered of paths: it follows every change of what is there."""

from __future__ import annotations

import gc
import weakref

import pytest

from aiomas import _paths
from aiomas._paths import Paths
from aiomas.routing import Router, RoutingDict, Service, expose


class Agent:
    router = Service()

    def __init__(self, name: str = "") -> None:
        self.name = name

    @expose
    def who(self):
        return self.name


class Root:
    """Has agents, as a container does."""

    router = Service(["agents"])

    def __init__(self) -> None:
        self.agents = RoutingDict()
        self.ran = 0

    @expose
    def me(self):
        return "root"


@pytest.fixture
def root():
    return Root()


@pytest.fixture
def paths(root):
    """Paths that have found an agent before."""
    root.agents["0"] = Agent("first")
    paths = Paths.of(root.router)
    assert paths.resolve("agents/0/who")() == "first"
    assert "agents/0/who" in paths.known
    return paths


def test_all_connections_share_what_is_known(root, paths):
    assert Paths.of(root.router) is paths


def test_what_is_known_is_not_searched_for(root, paths, monkeypatch):
    monkeypatch.setattr(Router, "find", None)
    assert paths.resolve("agents/0/who")() == "first"


def test_an_agent_that_is_removed_is_not_found(root, paths):
    del root.agents["0"]
    with pytest.raises(LookupError):
        paths.resolve("agents/0/who")


def test_an_agent_that_takes_the_place_of_another_is_found(root, paths):
    root.agents["0"] = Agent("second")
    assert paths.resolve("agents/0/who")() == "second"


def test_what_is_known_keeps_no_agent_alive(root, paths):
    gone = weakref.ref(root.agents["0"])
    del root.agents["0"]
    gc.collect()
    assert gone() is None


def test_an_attribute_of_the_class_may_be_replaced(root, paths, monkeypatch):
    monkeypatch.setattr(Agent, "who", expose(lambda self: "patched"))
    assert paths.resolve("agents/0/who")() == "patched"


def test_an_attribute_of_the_instance_may_be_set(root, paths):
    root.agents["0"].who = expose(lambda: "its own")
    assert paths.resolve("agents/0/who")() == "its own"


def test_what_is_not_exposed_any_more_is_not_found(root, paths, monkeypatch):
    monkeypatch.setattr(Agent, "who", lambda self: "secret")
    with pytest.raises(LookupError):
        paths.resolve("agents/0/who")


def test_what_is_not_there_any_more_is_not_found(root, paths, monkeypatch):
    monkeypatch.delattr(Agent, "who")
    with pytest.raises(LookupError):
        paths.resolve("agents/0/who")


def test_an_attribute_that_becomes_a_property_is_not_found_and_not_run_again(
    root, paths, monkeypatch
):
    runs: list[object] = []
    monkeypatch.setattr(Agent, "who", property(runs.append))
    for _ in range(3):
        with pytest.raises(LookupError):
            paths.resolve("agents/0/who")
    assert len(runs) <= 1


def test_a_sub_router_that_is_replaced_is_followed(root, paths):
    others = RoutingDict({"0": Agent("of others")})
    root.router.set_sub_router(others.router, "agents")
    assert paths.resolve("agents/0/who")() == "of others"


def test_a_sub_router_that_is_cleared_is_not_found(root, paths):
    root.router.clear()
    with pytest.raises(LookupError):
        paths.resolve("agents/0/who")


def test_there_is_an_end_to_what_is_remembered(root, paths, monkeypatch):
    monkeypatch.setattr(_paths, "_MOST", 3)
    for number in range(10):
        root.agents[f"{number}"] = Agent(f"{number}")
        assert paths.resolve(f"agents/{number}/who")() == f"{number}"
        assert len(paths.known) <= 3


def test_two_registries_on_the_way_are_searched_each_time(root, paths):
    root.agents["group"] = RoutingDict({"0": Agent("in a group")})
    assert paths.resolve("agents/group/0/who")() == "in a group"
    root.agents["group"] = RoutingDict({"0": Agent("in another")})
    assert paths.resolve("agents/group/0/who")() == "in another"


def test_functions_of_the_root_are_remembered(root, paths):
    assert paths.resolve("me")() == "root"
    assert "me" in paths.known
