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


def know(root: Root, paths: Paths, *names: str) -> None:
    """Call agents of these names."""
    for name in names:
        root.agents[name] = Agent(name)
        assert paths.resolve(f"agents/{name}/who")() == name


def test_without_room_the_oldest_path_alone_is_forgotten(root, paths, monkeypatch):
    monkeypatch.setattr(_paths, "_MOST", 4)
    know(root, paths, "1", "2", "3")
    assert list(paths.known) == [f"agents/{number}/who" for number in range(4)]
    know(root, paths, "4")
    assert list(paths.known) == [f"agents/{number}/who" for number in range(1, 5)]


def test_a_path_that_is_searched_for_again_takes_no_room_of_another(root, paths, monkeypatch):
    monkeypatch.setattr(_paths, "_MOST", 3)
    know(root, paths, "1", "2")
    know(root, paths, "1")
    assert {*paths.known} == {f"agents/{number}/who" for number in range(3)}


@pytest.mark.parametrize("most", [3, 4])
@pytest.mark.parametrize("path", ["agents/nobody/who", "agents/0/what", "agents", "", "no/body"])
def test_who_asks_for_what_is_not_there_makes_nobody_forget_anything(
    root, paths, monkeypatch, most, path
):
    monkeypatch.setattr(_paths, "_MOST", most)
    know(root, paths, "1", "2")
    known = dict(paths.known)
    assert len(known) == 3
    for _ in range(5):
        with pytest.raises(LookupError):
            paths.resolve(path)
    assert paths.known == known


def test_two_registries_on_the_way_are_searched_each_time(root, paths):
    root.agents["group"] = RoutingDict({"0": Agent("in a group")})
    assert paths.resolve("agents/group/0/who")() == "in a group"
    root.agents["group"] = RoutingDict({"0": Agent("in another")})
    assert paths.resolve("agents/group/0/who")() == "in another"


def test_functions_of_the_root_are_remembered(root, paths):
    assert paths.resolve("me")() == "root"
    assert "me" in paths.known


def test_a_mark_that_is_taken_away_counts_for_paths_that_were_not_called(root, paths, monkeypatch):
    root.agents["1"] = Agent("other")
    monkeypatch.delattr(Agent.who, "__rpc__")
    with pytest.raises(LookupError):
        paths.resolve("agents/1/who")
    monkeypatch.setattr(Agent.who, "__rpc__", False, raising=False)
    with pytest.raises(LookupError):
        paths.resolve("agents/1/who")


class TestChildrenOfDictionaries:
    """Those that are registered by hand hide the dictionary's own values."""

    @pytest.fixture
    def who(self, root, paths):
        """Returns who is found at a path, again and again, which is who a search would find."""

        def who(name: str = "0") -> str:
            path = f"agents/{name}/who"
            found: set[str] = {paths.resolve(path)() for _ in range(2)}
            assert found == {root.router.resolve(path)()}
            return found.pop()

        return who

    def test_one_hides_a_value_that_was_found(self, root, who):
        assert who() == "first"
        root.agents.router.set_sub_router(Agent("by hand").router, "0")
        assert who() == "by hand"

    def test_one_hides_a_value_that_comes_later(self, root, who):
        root.agents.router.set_sub_router(Agent("by hand").router, "1")
        assert who("1") == "by hand"
        root.agents["1"] = Agent("value")
        assert who("1") == "by hand"

    def test_one_that_is_a_value_as_well_stays_when_the_value_goes(self, root, who):
        root.agents.router.add("0")
        assert who() == "first"
        root.agents["0"] = Agent("value")
        assert who() == "first"

    def test_a_value_is_found_after_they_were_forgotten(self, root, who):
        root.agents.router.set_sub_router(Agent("by hand").router, "0")
        assert who() == "by hand"
        root.agents.router.clear()
        assert who() == "first"

    def test_another_one_takes_the_place_of_the_first(self, root, who):
        for name in ("by hand", "by hand, too"):
            root.agents.router.set_sub_router(Agent(name).router, "0")
            assert who() == name

    def test_values_beside_one_are_still_remembered(self, root, paths, who):
        root.agents.router.set_sub_router(Agent("by hand").router, "1")
        assert who() == "first"
        assert "agents/0/who" in paths.known

    def test_the_router_of_a_value_may_be_that_of_another_object(self, root, who):
        other = Plain("other")
        value = Plain("value")
        value.router = Router(other)
        root.agents["1"] = value
        assert who("1") == "other"

    def test_a_value_without_a_router_is_not_found_in_the_place_of_one_with_a_router(
        self, root, paths, who
    ):
        served = Plain("served")
        served.router = Router(served)
        root.agents["1"] = served
        assert who("1") == "served"
        root.agents["1"] = Plain("not served")
        with pytest.raises(LookupError):
            paths.resolve("agents/1/who")


class Plain:
    """Has a router only if somebody gives it one."""

    router: Router

    def __init__(self, name: str) -> None:
        self.name = name

    @expose
    def who(self):
        return self.name
