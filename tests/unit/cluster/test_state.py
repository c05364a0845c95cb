"""The states of agents are had from them, given back to them, and saved when they want it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from aiomas.cluster import state
from aiomas.codecs import JSON
from aiomas.exceptions import SerializationError


class Plain:
    aid = "7"

    def __init__(self):
        self.value: Any = 0

    def get_state(self):
        return self.value

    def set_state(self, value):
        self.value = value


class Async(Plain):
    async def get_state(self):
        return self.value

    async def set_state(self, value):
        self.value = value


@pytest.fixture(autouse=True)
def no_keeper(monkeypatch):
    monkeypatch.setattr(state, "_keepers", [])


@pytest.mark.parametrize("cls", [Plain, Async])
async def test_a_state_is_taken_and_given(cls):
    agent = cls()
    await state.give_state(agent, 5)
    assert await state.state_of(agent) == 5


async def test_an_agent_without_the_methods_is_refused():
    agent: Any = SimpleNamespace(get_state=5, set_state=5)
    with pytest.raises(TypeError, match=r"has no method get_state\(\)"):
        await state.state_of(agent)
    with pytest.raises(TypeError, match=r"has get_state\(\) but no set_state\(\)"):
        await state.give_state(agent, 5)


async def test_outside_of_a_cluster_nothing_is_saved():
    agent: Any = Plain()
    await state.checkpoint(agent)
    agent = object()
    with pytest.raises(TypeError):
        await state.checkpoint(agent)


async def test_a_state_is_saved_by_id_in_the_form_of_the_codec():
    saved = []

    async def fail(aid, data):
        raise AssertionError

    async def save(aid, data):
        saved.append((aid, data))

    state.keep_with(JSON(), fail)
    state.keep_with(JSON(), save)  # takes the place of the former
    agent: Any = Plain()
    agent.value = [1, 2]
    await state.checkpoint(agent)
    assert saved == [("7", JSON().encode([1, 2]))]


async def test_a_state_that_cannot_be_saved_is_an_error_of_the_agent():
    async def save(aid, data):
        raise ConnectionError("the supervisor is gone")

    state.keep_with(JSON(), save)
    agent: Any = Plain()
    with pytest.raises(ConnectionError, match="supervisor is gone"):
        await state.checkpoint(agent)
    agent.value = object()
    with pytest.raises(SerializationError):
        await state.checkpoint(agent)
