"""Detecting the end in the example: never too early, and always."""

from __future__ import annotations

from random import Random

import pytest

from examples.virtual_power_plant.termination import Engagement

ROOT = -1


def test_the_first_message_engages_and_its_acknowledgement_is_owed():
    engagement = Engagement()
    assert engagement.received(7)
    assert engagement.parent == 7


def test_messages_to_an_engaged_agent_are_acknowledged_at_once():
    engagement = Engagement()
    engagement.received(7)
    assert not engagement.received(7)
    assert not engagement.received(8)
    assert engagement.parent == 7


def test_an_agent_that_sent_nothing_is_released_at_once():
    engagement = Engagement()
    engagement.received(7)
    assert engagement.release() == 7
    assert engagement.parent is None


def test_an_agent_is_released_only_when_all_its_messages_are_acknowledged():
    engagement = Engagement()
    engagement.received(7)
    engagement.sent()
    engagement.sent()
    engagement.acknowledged()
    assert engagement.release() is None
    engagement.acknowledged()
    assert engagement.release() == 7


def test_an_agent_is_released_once():
    engagement = Engagement()
    engagement.received(7)
    assert engagement.release() == 7
    assert engagement.release() is None


def test_a_released_agent_can_be_engaged_again_by_another():
    engagement = Engagement()
    engagement.received(7)
    engagement.release()
    assert engagement.received(8)
    assert engagement.release() == 8


def test_an_acknowledgement_too_many_is_an_error():
    with pytest.raises(RuntimeError, match="not sent"):
        Engagement().acknowledged()


@pytest.mark.parametrize("seed", range(50))
def test_the_end_is_noticed_when_nothing_happens_any_more_and_not_before(seed):
    """Agents that get a message send some more, to anybody; all of it arrives in any order."""
    rng = Random(seed)
    agents = [Engagement() for _ in range(12)]
    work = {0: 3}  # messages that an agent still has to send
    under_way: list[
        tuple[int, int, bool]
    ] = []  # (sender, receiver, is a message and not an acknowledgement)
    budget = 300
    assert agents[0].received(ROOT)

    while work or under_way:
        if work and rng.random() < 0.5:
            agent = rng.choice(list(work))
            agents[agent].sent()
            under_way.append((agent, rng.randrange(12), True))
            work[agent] -= 1
            if not work[agent]:
                del work[agent]
        elif under_way:
            sender, agent, is_message = under_way.pop(rng.randrange(len(under_way)))
            if not is_message:
                agents[agent].acknowledged()
            else:
                if not agents[agent].received(sender):
                    under_way.append((agent, sender, False))
                more = min(rng.choice((0, 0, 1, 2, 3)), budget)
                budget -= more
                if more:
                    work[agent] = work.get(agent, 0) + more
        else:
            continue
        parent = None if agent in work else agents[agent].release()
        if parent == ROOT:
            assert not work
            assert not under_way
            assert all(other.parent is None and other.deficit == 0 for other in agents)
            break
        if parent is not None:
            under_way.append((agent, parent, False))
    else:
        pytest.fail("the root was never told of the end")
