"""One process of a container: it begins, answers, hangs, and ends; why it ended is always said."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import socket

import pytest

from aiomas.cluster import life as life_module
from aiomas.cluster.forkserver import OUT_OF_MEMORY
from aiomas.cluster.life import Life, LogPipe
from aiomas.cluster.logs import Log
from aiomas.exceptions import ClusterError, ContainerDied
from tests.unit.cluster.fakes import BOUND, FakeFork, fails, never, until

SHORT = 0.05  # seconds, for what does not come


@pytest.fixture
def log(tmp_path):
    log = Log(tmp_path / "0.log")
    yield log
    log.close()


@pytest.fixture
async def fork():
    fork = FakeFork()
    yield fork
    await fork.close()


@pytest.fixture
def listening():
    with socket.socket() as sock:
        yield sock


@pytest.fixture
def begin(fork, log, listening):
    async def begin(timeout=BOUND):
        return await Life.begin(3, fork, {"a": "job"}, listening, log, None, timeout)

    return begin


@pytest.fixture
async def life(begin):
    life = await begin()
    yield life
    await life.kill("the test is over")
    await life._has_ended(BOUND)


@pytest.fixture
def process(fork, life):
    return fork.processes[0]


class TestBegin:
    async def test_it_is_forked_with_its_job_and_answers(self, life, process):
        assert life.pid == process.pid
        assert process.job == {"a": "job"}
        assert await life.call("status") == {"agents": 7}

    async def test_what_cannot_be_forked_leaves_nothing(self, fork, begin):
        fork.errors = [OSError(errno.EMFILE, "no more")]
        with pytest.raises(OSError, match="no more"):
            await begin()

    async def test_one_that_ends_at_once_says_how(self, fork, begin):
        def end(process):
            process.write("one line\nand another")
            process.close()  # the stream ends first, the exit code comes later
            asyncio.get_running_loop().call_soon(process.end, 3)

        fork.serving = end
        with pytest.raises(ContainerDied) as caught:
            await begin()
        pid = fork.processes[0].pid
        assert str(caught.value) == f"Container 3 (pid {pid}) ended with exit code 3"
        assert (caught.value.index, caught.value.exit_code) == (3, 3)
        assert list(caught.value.log) == ["one line", "and another"]

    async def test_one_that_does_not_answer_in_time_is_killed(self, fork, begin):
        fork.serving = False
        with pytest.raises(ContainerDied, match=rf"did not answer within {SHORT} s, and was kill"):
            await begin(SHORT)
        assert fork.processes[0].signals == [signal.SIGKILL]

    async def test_if_nobody_waits_any_more_it_is_killed(self, fork, begin):
        fork.serving = False
        beginning = asyncio.create_task(begin())
        await until(lambda: fork.processes)
        beginning.cancel()
        with pytest.raises(asyncio.CancelledError):
            await beginning
        await until(lambda: fork.processes[0].signals == [signal.SIGKILL])


class TestCalls:
    async def test_an_error_there_has_its_traceback(self, fork, life):
        fork.answers["checkpoint"] = fails
        with pytest.raises(ClusterError, match=r"(?s)^Container 3 \(pid .*: code of the user"):
            await life.call("checkpoint")

    async def test_one_that_takes_too_long_says_so(self, fork, life):
        fork.answers["set_time"] = never
        with pytest.raises(ClusterError, match=r"has not answered set_time\(\) within 0.05 s"):
            await life.call("set_time", 5.0, timeout=SHORT)

    async def test_one_to_a_process_that_ends_says_how_it_ended(self, fork, life, process):
        fork.answers["checkpoint"] = lambda process: process.end(-signal.SIGSEGV)
        with pytest.raises(ContainerDied, match="was killed by SIGSEGV") as caught:
            await life.call("checkpoint")
        assert caught.value.exit_code == -signal.SIGSEGV
        with pytest.raises(ContainerDied, match="was killed by SIGSEGV"):
            await life.call("checkpoint")

    async def test_they_do_not_wait_for_ever_for_what_cannot_be_killed(
        self, fork, life, process, monkeypatch
    ):
        monkeypatch.setattr(life_module, "_DEATH_TIMEOUT", SHORT)
        monkeypatch.setattr(life_module, "_EXIT_TIMEOUT", SHORT)
        fork.deadly = set()
        process.ends_with_stream = False
        process.client.close()
        with pytest.raises(ClusterError, match="closed its control stream, but does not end"):
            await life.call("status")
        process.end(0)

    async def test_whether_it_answers(self, fork, life, process):
        assert await life.answers(BOUND)
        fork.answers["ping"] = never
        assert not await life.answers(SHORT)
        process.end(1)
        await life.ended
        assert await life.answers(BOUND)


class TestEnd:
    async def test_the_last_lines_are_there(self, life, process):
        process.write("the last line")
        process.end(1)
        error = await life.ended
        assert list(error.log) == ["the last line"]
        assert not error.out_of_memory

    async def test_an_error_of_memory_is_said(self, life, process):
        process.end(OUT_OF_MEMORY)
        error = await life.ended
        assert error.out_of_memory
        assert str(error).endswith("ended with exit code 77: out of memory")

    @pytest.mark.parametrize("kills", [0, 1])
    async def test_a_kill_by_the_system_is_for_memory_if_it_says_so(
        self, begin, fork, monkeypatch, kills
    ):
        count = [5]
        monkeypatch.setattr(life_module, "kernel_oom_kills", lambda: count[0])
        life = await begin()
        count[0] += kills
        fork.processes[0].end(-signal.SIGKILL)
        error = await life.ended
        assert error.out_of_memory == bool(kills)
        assert ("was killed by SIGKILL" in str(error), "memory" in str(error)) == (True, kills == 1)

    async def test_the_end_of_the_fork_server_is_its_own(self, life, process):
        process.end(ClusterError("the fork server is gone"))
        error = await life.ended
        assert str(error).endswith("ended together with the fork server")
        assert error.exit_code is None

    async def test_one_that_closes_its_control_stream_is_killed(self, life, process, monkeypatch):
        monkeypatch.setattr(life_module, "_EXIT_TIMEOUT", SHORT)
        process.ends_with_stream = False
        process.client.close()
        assert "closed its control stream, and was killed" in str(await life.ended)

    async def test_the_first_reason_to_kill_it_is_told(self, fork, life, process):
        fork.deadly = set()
        await life.kill("was slow")
        await life.kill("was wanted no more")
        process.end(-signal.SIGKILL)
        assert "was slow, and was killed" in str(await life.ended)
        await life.kill("had ended already")
        assert process.signals == [signal.SIGKILL] * 2

    async def test_it_may_end_while_it_is_killed(self, fork, life, process, monkeypatch):
        async def kill(process, sig):
            process.end(0)
            raise ProcessLookupError

        monkeypatch.setattr(fork, "kill", kill)
        await life.kill("was slow")
        assert (await life.ended).exit_code == 0


class TestStop:
    async def test_it_is_asked_and_ends_with_its_stream(self, life, process):
        assert await life.stop(BOUND) == 0
        assert process.calls_of("stop") == [[BOUND]]
        assert process.signals == []

    async def test_one_that_takes_its_time_to_end_gets_it(self, life, process, monkeypatch):
        monkeypatch.setattr(life_module, "_EXIT_TIMEOUT", 0.0)
        process.ends_with_stream = False
        process.client.channel.on_closed(
            lambda: asyncio.get_running_loop().call_later(SHORT, process.end, 5)
        )
        assert await life.stop(BOUND) == 5
        assert process.signals == []

    async def test_one_that_does_not_end_is_terminated(self, fork, life, process):
        process.ends_with_stream = False
        assert await life.stop(SHORT) == -signal.SIGTERM
        assert process.signals == [signal.SIGTERM]

    async def test_one_that_does_not_answer_is_terminated(self, fork, life, process, monkeypatch):
        monkeypatch.setattr(life_module, "_LATE", SHORT)
        fork.answers["stop"] = never
        assert await life.stop(SHORT) == -signal.SIGTERM

    async def test_one_that_ignores_that_is_killed(self, fork, life, process):
        process.ends_with_stream = False
        fork.deadly = {signal.SIGKILL}
        assert await life.stop(SHORT) == -signal.SIGKILL
        assert process.signals == [signal.SIGTERM, signal.SIGKILL]
        assert f"did not end within {SHORT} s, and was killed" in str(await life.ended)

    async def test_what_cannot_be_killed_is_not_waited_for(self, fork, life, process, monkeypatch):
        monkeypatch.setattr(life_module, "_EXIT_TIMEOUT", SHORT)
        process.ends_with_stream = False
        fork.deadly = set()
        assert await life.stop(SHORT) is None
        process.end(0)

    async def test_if_nobody_waits_any_more_it_is_killed(self, fork, life, process):
        fork.answers["stop"] = never
        stopping = asyncio.create_task(life.stop(BOUND))
        await until(lambda: process.calls_of("stop"))
        stopping.cancel()
        with pytest.raises(asyncio.CancelledError):
            await stopping
        assert process.signals == [signal.SIGKILL]

    async def test_one_that_has_ended_is_no_trouble(self, life, process):
        process.end(4)
        assert await life.stop(BOUND) == 4
        assert await life.stop(BOUND) == 4


class TestLogPipe:
    async def test_it_waits_for_what_others_write_but_not_for_long(self, log, monkeypatch):
        monkeypatch.setattr(life_module, "_LOG_TIMEOUT", SHORT)
        pipe = LogPipe(log)
        held = os.dup(pipe.write_end)
        try:
            os.write(held, b"a line\n")
            await pipe.drain()
            assert log.last_lines == ["a line"]
        finally:
            os.close(held)
        await pipe.drain()  # is over already

    async def test_it_is_read_while_it_is_written(self, log):
        pipe = LogPipe(log)
        os.set_blocking(pipe.write_end, False)
        for n in range(100):
            os.write(pipe.write_end, b"x" * 9_999 + b"\n")
            if n % 5 == 0:
                await asyncio.sleep(0)
                await asyncio.sleep(0)
        await pipe.drain()
        assert len(log.last_lines) == 50

    async def test_nothing_to_read_is_no_trouble(self, log):
        pipe = LogPipe(log)
        pipe._readable()
        await pipe.drain()
        assert log.last_lines == []

    async def test_it_tells_when_nothing_more_is_written(self, log):
        pipe = LogPipe(log)
        os.write(pipe.write_end, b"a stack\n")
        await pipe.quiet(0.01, within=BOUND)
        assert log.last_lines == ["a stack"]
        await pipe.quiet(0.01, within=SHORT)  # nothing is written
        await pipe.drain()

    async def test_stacks_are_written_on_a_signal(self, fork, life, process, log, monkeypatch):
        async def kill(process, sig):
            process.signals.append(sig)
            process.write("the stack\n")

        monkeypatch.setattr(fork, "kill", kill)
        await life.dump_stacks(signal.SIGUSR1)
        assert process.signals == [signal.SIGUSR1]
        assert log.last_lines == ["the stack"]
        monkeypatch.undo()
