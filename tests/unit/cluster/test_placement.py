"""Strategies choose among the containers that run."""

from __future__ import annotations

import pytest

from aiomas.cluster.cluster import ContainerInfo
from aiomas.cluster.placement import Pinned, RoundRobin, least_loaded


def containers(*indices: int) -> list[ContainerInfo]:
    return [ContainerInfo(index) for index in indices]


def test_round_robin_takes_one_after_the_other():
    choose = RoundRobin()
    assert [choose(containers(0, 1, 2)) for _ in range(7)] == [0, 1, 2, 0, 1, 2, 0]


def test_round_robin_goes_on_when_a_container_is_gone():
    choose = RoundRobin()
    for _ in range(3):
        choose(containers(0, 1, 2))
    assert sorted(choose(containers(0, 2)) for _ in range(4)) == [0, 0, 1, 1]


def test_least_loaded_takes_the_one_with_the_fewest_agents():
    infos = containers(0, 1, 2)
    for info, agents in zip(infos, (3, 1, 2), strict=True):
        info.agents = agents
    assert least_loaded(infos) == 1
    infos[1].agents = 3
    assert least_loaded(infos) == 2


def test_pinned_takes_the_one_with_the_index():
    assert Pinned(2)(containers(0, 1, 2)) == 2
    assert Pinned(2)(containers(1, 2)) == 1


@pytest.mark.parametrize("index", [1, 3, -1])
def test_pinned_refuses_one_that_does_not_run(index):
    with pytest.raises(ValueError, match=f"placement={index}.*no running container"):
        Pinned(index)(containers(0, 2))
