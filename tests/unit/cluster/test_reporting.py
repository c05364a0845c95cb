"""What control services report has the error as it was, or tells of bugs by their traceback."""

from __future__ import annotations

import asyncio

import pytest

from aiomas.cluster.events import error_of_content
from aiomas.cluster.reporting import reporting
from aiomas.codecs import MsgPack
from aiomas.exceptions import ClusterError, ConnectTimeout, ContainerDied, SpawnError


class Service:
    def __init__(self, error=None):
        self.error = error

    @reporting
    async def method(self, first: int, *, second: int) -> int:
        """What it does."""
        if self.error is not None:
            raise self.error
        return first - second


async def report(error=None):
    content = await Service(error).method(7, second=2)
    codec = MsgPack()
    return codec.decode(codec.encode(content))


async def test_results_are_values():
    assert await report() == {"value": 5}


async def test_a_container_that_died_is_told_with_all_that_is_known():
    died = ContainerDied("it died", 3, -9, out_of_memory=True, log=["a", "b"])
    error = error_of_content((await report(died))["error"])
    assert isinstance(error, ContainerDied)
    assert (str(error), error.index, error.exit_code) == ("it died", 3, -9)
    assert (error.out_of_memory, list(error.log)) == (True, ["a", "b"])


@pytest.mark.parametrize("error", [ClusterError("no such thing"), SpawnError("no such thing")])
async def test_errors_of_the_cluster_have_their_message(error):
    told = error_of_content((await report(error))["error"])
    assert (type(told), str(told)) == (ClusterError, "no such thing")


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ConnectTimeout("3 s"), "ConnectTimeout: 3 s"),
        (FileNotFoundError(2, "None", "x"), "FileNotFoundError: [Errno 2] None: 'x'"),
        (TimeoutError("10 s"), "TimeoutError: 10 s"),
    ],
    ids=repr,
)
async def test_other_errors_that_are_no_bugs_have_their_name(error, message):
    assert await report(error) == {"error": {"message": message}}


async def test_bugs_are_not_reported_here():
    with pytest.raises(LookupError):
        await report(LookupError("a bug"))


async def test_cancelling_is_let_through():
    with pytest.raises(asyncio.CancelledError):
        await report(asyncio.CancelledError())


def test_it_looks_like_the_method():
    assert Service.method.__name__ == "method"
    assert Service.method.__doc__ == "What it does."
