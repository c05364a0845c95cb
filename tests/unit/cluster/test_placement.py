"""Strategies choose among the containers that run."""

from __future__ import annotations

import numpy as np
import pytest

import aiomas
from aiomas.cluster.info import ContainerInfo
from aiomas.cluster.placement import Beside, OnHost, Pinned, RoundRobin, chooser, least_loaded


def containers(*indices: int) -> list[ContainerInfo]:
    return [ContainerInfo(index, url=f"local://{index}/") for index in indices]


def loaded(*loads: tuple[int, float]) -> list[ContainerInfo]:
    infos = containers(*range(len(loads)))
    for info, (agents, cpu_load) in zip(infos, loads, strict=True):
        info.agents, info.cpu_load = agents, cpu_load
    return infos


@pytest.fixture
async def proxy():
    """Return a function that makes proxies for agents in containers."""
    async with aiomas.Container.open(aiomas.get_queue("here")) as container:
        yield lambda index: container.proxy(f"local://{index}/0")


def test_round_robin_takes_one_after_the_other():
    choose = RoundRobin()
    assert [choose(containers(0, 1, 2)) for _ in range(7)] == [0, 1, 2, 0, 1, 2, 0]


def test_round_robin_goes_on_when_a_container_is_gone():
    choose = RoundRobin()
    for _ in range(3):
        choose(containers(0, 1, 2))
    assert sorted(choose(containers(0, 2)) for _ in range(4)) == [0, 0, 1, 1]


@pytest.mark.parametrize(
    ("loads", "expected"),
    [
        ([(3, 0.0), (1, 0.0), (2, 0.0)], 1),
        ([(3, 0.0), (3, 0.0), (2, 0.0)], 2),
        ([(0, 1.0), (0, 0.2), (0, 0.5)], 1),
        ([(100, 1.0), (150, 0.0)], 1),
        ([(100, 1.0), (250, 0.0)], 0),
        ([(5, 0.0), (5, 0.0)], 0),
    ],
)
def test_least_loaded_weighs_agents_by_the_load_of_the_core(loads, expected):
    assert least_loaded(loaded(*loads)) == expected


def test_least_loaded_spreads_many_agents_although_the_load_is_not_measured_anew():
    infos = loaded((0, 1.0), (0, 0.0), (0, 0.0))
    for _ in range(100):
        infos[least_loaded(infos)].agents += 1
    assert [info.agents for info in infos] == [20, 40, 40]


def test_pinned_takes_the_one_with_the_index():
    assert Pinned(2)(containers(0, 1, 2)) == 2
    assert Pinned(2)(containers(1, 2)) == 1


@pytest.mark.parametrize("index", [1, 3, -1])
def test_pinned_refuses_one_that_does_not_run(index):
    with pytest.raises(ValueError, match=f"placement={index}.*no running container"):
        Pinned(index)(containers(0, 2))


def test_on_host_takes_the_least_loaded_one_there():
    infos = loaded((0, 0.0), (7, 0.0), (5, 0.0))
    infos[1].host = infos[2].host = "here"
    assert OnHost("here")(infos) == 2
    infos[2].agents = 8
    assert OnHost("here")(infos) == 1


def test_on_host_refuses_one_without_running_containers():
    with pytest.raises(ValueError, match=r"placement='there'.*no running container"):
        OnHost("there")(containers(0))


async def test_beside_takes_the_container_of_the_agent(proxy):
    assert Beside(proxy(2))(containers(0, 2)) == 1
    with pytest.raises(ValueError, match="no running container of this cluster"):
        Beside(proxy(22))(containers(0, 2))


class TestChooser:
    def choose(self, placement, infos=None):
        infos = infos or containers(0, 1, 2)
        return chooser(placement, infos, RoundRobin())(infos)

    async def test_knows_all_forms(self, proxy):
        infos = loaded((1, 0.0), (0, 0.0), (2, 0.0))
        infos[2].host = "there"
        assert self.choose("round-robin", infos) == 0
        assert self.choose("least-loaded", infos) == 1
        assert self.choose("there", infos) == 2
        assert self.choose(2, infos) == 2
        assert self.choose(proxy(1), infos) == 1
        assert self.choose(lambda places: places[1].index, infos) == 1

    def test_round_robin_is_that_of_the_cluster(self):
        infos, round_robin = containers(0, 1), RoundRobin()
        chosen = [chooser("round-robin", infos, round_robin)(infos) for _ in range(3)]
        assert chosen == [0, 1, 0]

    @pytest.mark.parametrize("placement", ["nowhere", None, True, 1.5])
    def test_refuses_what_is_none(self, placement):
        with pytest.raises(ValueError, match=r"placement must be .*\(there are localhost\)"):
            self.choose(placement)

    async def test_refuses_agents_of_others(self, proxy):
        with pytest.raises(ValueError, match="is no agent of this cluster"):
            self.choose(proxy(11))

    async def test_says_which_container_does_not_run(self, proxy):
        choose = chooser(proxy(1), containers(0, 1), RoundRobin())
        with pytest.raises(ValueError, match="placement=1: there is no running container"):
            choose(containers(0))

    def test_takes_any_whole_number_from_a_strategy(self):
        assert self.choose(lambda _: np.argmin([3, 1, 2])) == 1

    @pytest.mark.parametrize("answer", [3, -1])
    def test_names_a_strategy_whose_answer_is_out_of_range(self, answer):
        def careless(places):
            return answer

        with pytest.raises(ValueError, match=rf"careless returned {answer}.*0 to 2"):
            self.choose(careless)

    @pytest.mark.parametrize("answer", [None, 1.0, "1", True])
    def test_names_a_strategy_whose_answer_is_no_position(self, answer):
        class Careless:
            def __repr__(self):
                return "<Careless>"

            def __call__(self, places):
                return answer

        with pytest.raises(TypeError, match=rf"<Careless> returned {answer!r}"):
            self.choose(Careless())
