"""What the processes of all containers have in common."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from aiomas.cluster.spec import ClusterSpec
from aiomas.cluster.surroundings import Surroundings


def surroundings(**fields):
    fork: Any = None
    return Surroundings(
        spec=ClusterSpec(containers=3, **fields),
        run="plant",
        directory=Path("/run/plant"),
        logs=Path("/logs"),
        fork=fork,
        token="secret",
        tls=False,
        emit=lambda event: None,
        echo=None,
    )


def test_each_life_of_each_container_has_numbers_of_its_own():
    seeds = {
        surroundings(seed="x").job(index, life)["environment"]["seed"]
        for index in range(3)
        for life in range(3)
    }
    assert len(seeds) == 9


def test_containers_share_the_cores_if_there_are_not_enough(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {5, 3}, raising=False)
    around = surroundings(pin=True)
    cores = [around.job(index, 0)["environment"]["cpu"] for index in range(3)]
    assert cores == [3, 5, 3]


def test_the_token_is_not_shown():
    assert "secret" not in repr(surroundings())
