"""Events and errors travel from the supervisor to the driver, and are the same there."""

from __future__ import annotations

import time

import pytest

from aiomas.cluster.events import ClusterEvent, EventKind, error_content, error_of_content, together
from aiomas.codecs import MsgPack
from aiomas.exceptions import ClusterError, ContainerDied


def travelled(content):
    return MsgPack().decode(MsgPack().encode(content))


@pytest.mark.parametrize("kind", EventKind)
def test_an_event_of_each_kind_can_travel(kind):
    event = ClusterEvent(kind=kind, message="It happened", index=3, pid=4711)
    assert ClusterEvent.read(travelled(event.content())) == event


def test_an_event_of_the_cluster_is_about_no_container():
    event = ClusterEvent.read(ClusterEvent(kind=EventKind.LOST, message="Gone").content())
    assert (event.index, event.pid, event.error) == (None, None, None)


def test_an_event_knows_when_it_was_noticed():
    before = time.time()
    assert before <= ClusterEvent(kind=EventKind.HUNG, message="").time <= time.time()


def test_the_error_of_an_event_travels_with_it():
    error = ContainerDied("It died", 5, -9, out_of_memory=True, log=["one", "two"])
    event = ClusterEvent(kind=EventKind.DIED, message="It died", error=error)
    found = ClusterEvent.read(travelled(event.content())).error
    assert isinstance(found, ContainerDied)
    assert str(found) == "It died"
    assert (found.index, found.exit_code, found.out_of_memory) == (5, -9, True)
    assert list(found.log) == ["one", "two"]


def test_an_error_of_the_cluster_has_its_message_alone():
    found = error_of_content(travelled(error_content(ClusterError("No such thing"))))
    assert type(found) is ClusterError
    assert str(found) == "No such thing"


def test_of_several_errors_the_first_is_raised_and_its_notes_name_the_others():
    errors = [ContainerDied("Container 1 died", 1, -9), ClusterError("no luck"), ValueError("x")]
    assert together(errors[2:]) is errors[2]
    assert not hasattr(errors[2], "__notes__")
    assert together(errors) is errors[0]
    assert errors[0].__notes__ == ["And ClusterError: no luck", "And ValueError: x"]
