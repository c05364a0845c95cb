"""Repetitions: what the caller is told about all attempts together."""

from __future__ import annotations

import asyncio

import pytest

from aiomas._current import CallOptions
from aiomas._retries import Retries
from aiomas.exceptions import (
    ConnectionLost,
    ContainerClosedError,
    DeadlineExceeded,
    Outcome,
    RemoteException,
    RemoteLookupError,
)

LOST = ConnectionLost("gone").of_call(Outcome.MAYBE_EXECUTED)


def of_attempts(*results: object):
    """Make a call whose attempts end like this: raise what is of an exception's kind."""
    attempts = iter(results)

    def send(content, options):
        future = asyncio.get_running_loop().create_future()
        result = next(attempts)
        if isinstance(result, ContainerClosedError):  # a pool raises it at once
            raise result
        if isinstance(result, Exception):
            future.set_exception(result)
        else:
            future.set_result(result)
        return future

    retries = Retries(send, asyncio.get_running_loop())
    return retries.send("content", CallOptions(retries=3), None)


@pytest.mark.parametrize(
    "last",
    [
        DeadlineExceeded("there", "late").of_call(Outcome.NOT_SENT),
        RemoteLookupError("there", "stopped").of_call(Outcome.NOT_EXECUTED),
        RemoteException("there", "refused").of_call(Outcome.NOT_EXECUTED),
        ContainerClosedError("closed").of_call(Outcome.NOT_SENT),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_what_the_first_attempt_may_have_done_is_not_denied_by_the_last(last):
    with pytest.raises(type(last)) as caught:
        await of_attempts(LOST, last)

    assert caught.value.outcome is Outcome.MAYBE_EXECUTED


async def test_what_the_last_attempt_has_done_is_certain():
    last = RemoteException("there", "failed").of_call(Outcome.EXECUTED)

    with pytest.raises(RemoteException) as caught:
        await of_attempts(LOST, last)

    assert caught.value.outcome is Outcome.EXECUTED


async def test_attempts_that_have_not_left_leave_nothing_open():
    lost = ConnectionLost("gone").of_call(Outcome.NOT_SENT)
    last = DeadlineExceeded("there", "late").of_call(Outcome.NOT_SENT)

    with pytest.raises(DeadlineExceeded) as caught:
        await of_attempts(lost, last)

    assert caught.value.outcome is Outcome.NOT_SENT


async def test_what_no_repetition_would_change_is_not_repeated():
    failed = RemoteException("there", "failed").of_call(Outcome.EXECUTED)

    with pytest.raises(RemoteException):
        await of_attempts(failed, "never")


async def test_the_first_result_counts():
    assert await of_attempts(LOST, LOST, "there you are", "never") == "there you are"
