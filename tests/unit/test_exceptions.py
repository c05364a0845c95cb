"""The hierarchy of exceptions: what can be caught as what, and what they say."""

from __future__ import annotations

import copy
import pickle

import pytest

from aiomas import exceptions
from aiomas.exceptions import (
    AddressError,
    AgentNotFoundError,
    AiomasError,
    ClusterError,
    ConnectionLost,
    ConnectTimeout,
    ContainerClosedError,
    ContainerDied,
    DeadlineExceeded,
    DecodeError,
    HandshakeError,
    Outcome,
    Overloaded,
    PartialResult,
    PeerUnresponsive,
    ProtocolError,
    RemoteException,
    RemoteLookupError,
    SerializationError,
    SpawnError,
)


@pytest.mark.parametrize("name", sorted({*exceptions.__all__} - {"Outcome"}))
def test_every_exception_derives_from_aiomas_error(name):
    assert issubclass(getattr(exceptions, name), AiomasError)


@pytest.mark.parametrize(
    ("cls", "builtin"),
    [
        (AddressError, ValueError),
        (AgentNotFoundError, ConnectionError),
        (AgentNotFoundError, LookupError),
        (SerializationError, TypeError),
        (DecodeError, SerializationError),
        (DecodeError, ValueError),
        (ConnectionLost, ConnectionResetError),
        (ContainerClosedError, ConnectionLost),
        (ContainerDied, ConnectionError),
        (PartialResult, ClusterError),
        (ProtocolError, ConnectionLost),
        (ProtocolError, RuntimeError),
        (HandshakeError, ConnectionLost),
        (PeerUnresponsive, ConnectionLost),
        (RemoteLookupError, RemoteException),
        (RemoteLookupError, LookupError),
        (Overloaded, RemoteException),
        (DeadlineExceeded, RemoteException),
        (DeadlineExceeded, TimeoutError),
        (ConnectTimeout, TimeoutError),
    ],
)
def test_exceptions_are_caught_by_the_builtin_that_callers_know(cls, builtin):
    assert issubclass(cls, builtin)


def test_errors_of_connections_keep_their_message():
    for cls in (ConnectionLost, ProtocolError, ContainerClosedError, AgentNotFoundError):
        assert str(cls("what happened")) == "what happened"


def test_a_remote_exception_shows_its_origin_and_the_traceback():
    exc = RemoteException(("127.0.0.1", 5555), "Traceback ...\nValueError: boom\n")

    assert exc.origin == ("127.0.0.1", 5555)
    assert exc.remote_traceback == "Traceback ...\nValueError: boom\n"
    assert exc.args == (exc.origin, exc.remote_traceback)
    assert str(exc) == "Origin: ('127.0.0.1', 5555)\nTraceback ...\nValueError: boom\n"


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (["ValueError", "boom", "Traceback"], "ValueError\nboom\nTraceback"),
        (("ValueError", 1), "ValueError\n1"),
        (b"raw", "b'raw'"),
        (None, "None"),
    ],
)
def test_a_remote_exception_keeps_what_other_programs_send_in_place_of_a_traceback(content, text):
    exc = RemoteException("peer", content)

    assert exc.remote_traceback == content
    assert str(exc) == f"Origin: peer\n{text}"


def test_a_dead_container_is_named_with_its_exit_code():
    exc = ContainerDied("container 3 was killed", index=3, exit_code=-9)

    assert (str(exc), exc.index, exc.exit_code) == ("container 3 was killed", 3, -9)
    assert (exc.out_of_memory, exc.log) == (False, [])


def test_a_partial_result_has_what_each_call_came_to():
    failure = ValueError("boom")
    exc = PartialResult("1 of 2 calls failed", ["spam", failure])

    assert (str(exc), exc.results) == ("1 of 2 calls failed", ["spam", failure])


def test_a_spawn_error_holds_the_agents_that_exist():
    assert SpawnError("no more room", spawned=("a", "b")).spawned == ["a", "b"]
    assert SpawnError("no more room").spawned == []


def test_errors_of_a_cluster_can_be_copied_and_pickled():
    died = exceptions.ContainerDied("it died", 3, None, out_of_memory=True, log=("no", "more"))
    partial = PartialResult("some failed", [1, None])
    spawn = exceptions.SpawnError("it failed", ["a proxy"])
    for make in (copy.copy, lambda error: pickle.loads(pickle.dumps(error))):
        again = make(died)
        assert (str(again), again.index, again.exit_code) == ("it died", 3, None)
        assert (again.out_of_memory, again.log) == (True, ["no", "more"])
        again = make(partial)
        assert (str(again), again.results) == ("some failed", [1, None])
        again = make(spawn)
        assert (str(again), again.spawned) == ("it failed", ["a proxy"])


def test_the_outcome_says_whether_a_call_may_be_repeated_without_harm():
    assert [outcome for outcome in Outcome if outcome.has_not_run] == ["not_sent", "not_executed"]


def test_an_error_has_no_outcome_unless_it_is_that_of_a_call():
    assert ConnectionLost("gone").outcome is None
    error = ConnectionLost("gone")
    assert error.of_call(Outcome.NOT_SENT) is error
    assert error.outcome == "not_sent"


def test_the_outcome_survives_copying_and_pickling():
    error = Overloaded("peer", "too much").of_call(Outcome.NOT_EXECUTED)
    for again in (copy.copy(error), pickle.loads(pickle.dumps(error))):
        assert type(again) is Overloaded
        assert (again.origin, again.outcome) == ("peer", Outcome.NOT_EXECUTED)


def test_a_partial_result_has_what_there_is():
    error = PartialResult("1 of 2 calls failed", [1, KeyError()])

    assert str(error) == "1 of 2 calls failed"
    assert error.results[0] == 1
    assert copy.copy(error).results == error.results
