"""Binding and dialling: Unix socket files, ports, advertised hosts, attempts and their bounds."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import socket
import ssl
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from aiomas import _endpoint, local_queue
from aiomas._address import IpcAddress, LocalAddress, TcpAddress
from aiomas._endpoint import (
    MAX_UNIX_PATH,
    Server,
    advertised,
    describe,
    dial,
    listen,
    retry,
    socket_address,
)
from aiomas.exceptions import AddressError, ConnectTimeout


class Greeter(asyncio.Protocol):
    """Says a word to each client, and stays connected."""

    def __init__(self, word: bytes = b"hello") -> None:
        self.word = word
        self.transport: asyncio.Transport

    def connection_made(self, transport):
        self.transport = transport
        transport.write(self.word)

    def connection_lost(self, exc):
        pass


class Listener(asyncio.Protocol):
    """Collects what the other end says."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport
        self.heard: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self.lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        if not self.heard.done():
            self.heard.set_result(data)

    def connection_lost(self, exc):
        self.lost.set_result(None)


async def hear(addr, **kwds) -> bytes:
    """Dial *addr*, and return what is said there."""
    listener = await dial(Listener, addr, asyncio.get_running_loop(), **kwds)
    assert isinstance(listener, Listener)
    word = await listener.heard
    listener.transport.abort()
    await listener.lost
    return word


async def serve(addr, word: bytes = b"hello", **kwds) -> Server:
    return await listen(lambda: Greeter(word), addr, asyncio.get_running_loop(), **kwds)


def port_of(server: Server) -> int:
    port: int = server.sockets[0].getsockname()[1]
    return port


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def make_stale(path: str) -> None:
    """Leave a socket's file behind, as a server that was killed does."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(path)
        sock.listen()


def has_ipv6() -> bool:
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET6) as sock:
        sock.bind(("::1", 0))
        return True
    return False


needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")


class TestUnixSockets:
    async def test_only_this_user_can_connect(self, unix_path):
        before = os.umask(0)
        try:
            async with await serve(unix_path):
                assert stat.S_IMODE(Path(unix_path).stat().st_mode) == 0o600
        finally:
            os.umask(before)

    async def test_the_file_is_removed_when_the_server_closes(self, unix_path):
        server = await serve(unix_path)
        assert Path(unix_path).exists()

        server.close()
        await server.wait_closed()
        assert not Path(unix_path).exists()

        server.close()  # and a second time does no harm
        async with await serve(unix_path, b"again"):
            assert await hear(unix_path) == b"again"

    async def test_a_file_that_is_not_ours_any_more_is_left_alone(self, unix_path):
        first = await serve(unix_path, b"first")
        Path(unix_path).unlink()
        async with await serve(unix_path, b"second"):
            first.close()
            await first.wait_closed()

            assert await hear(unix_path) == b"second"

    async def test_a_file_that_is_gone_is_not_missed_at_the_end(self, unix_path):
        async with await serve(unix_path):
            Path(unix_path).unlink()

    async def test_a_stale_file_is_replaced(self, unix_path):
        make_stale(unix_path)
        with pytest.raises(ConnectionRefusedError):
            await hear(unix_path)

        async with await serve(unix_path):
            assert await hear(unix_path) == b"hello"

    async def test_the_socket_of_a_killed_process_is_replaced(self, unix_path):
        code = (
            "import socket, sys; s = socket.socket(socket.AF_UNIX); s.bind(sys.argv[1]); "
            "s.listen(); print('up', flush=True); sys.stdin.read()"
        )
        with subprocess.Popen(
            [sys.executable, "-c", code, unix_path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as process:
            assert process.stdout is not None
            process.stdout.readline()
            with pytest.raises(OSError, match="in use"):
                await serve(unix_path)
            process.kill()
            process.wait()

        async with await serve(unix_path):
            assert await hear(unix_path) == b"hello"

    async def test_a_live_one_is_refused_and_lives_on(self, unix_path):
        async with await serve(unix_path, b"live"):
            with pytest.raises(OSError, match="in use") as caught:
                await serve(unix_path, b"thief")

            assert caught.value.errno == errno.EADDRINUSE
            assert unix_path in str(caught.value)
            assert await hear(unix_path) == b"live"

    async def test_a_live_one_with_a_full_backlog_is_not_taken_for_dead(self, unix_path):
        with contextlib.ExitStack() as stack:
            owner = stack.enter_context(socket.socket(socket.AF_UNIX))
            owner.bind(unix_path)
            owner.listen(0)
            for _ in range(3):
                client = stack.enter_context(socket.socket(socket.AF_UNIX))
                client.setblocking(False)
                client.connect_ex(unix_path)

            with pytest.raises(OSError, match="in use"):
                await serve(unix_path)

            assert stat.S_ISSOCK(Path(unix_path).stat().st_mode)

    async def test_a_regular_file_is_not_removed(self, unix_path):
        Path(unix_path).write_text("precious")

        with pytest.raises(OSError, match="in use"):
            await serve(unix_path)

        assert Path(unix_path).read_text() == "precious"

    async def test_of_servers_that_race_for_a_stale_file_exactly_one_wins(self, unix_path):
        make_stale(unix_path)

        outcomes = await asyncio.gather(
            *(serve(unix_path, str(n).encode()) for n in range(10)), return_exceptions=True
        )

        winners = [(n, out) for n, out in enumerate(outcomes) if isinstance(out, Server)]
        assert len(winners) == 1
        assert all(isinstance(out, OSError | Server) for out in outcomes)
        ((number, server),) = winners
        async with server:
            assert await hear(unix_path) == str(number).encode()

    async def test_of_processes_that_race_for_a_stale_file_exactly_one_wins(self, unix_path):
        make_stale(unix_path)
        code = """
import asyncio, sys
from aiomas import channel

async def main():
    sys.stdin.readline()
    try:
        server = await channel.start_server(sys.argv[1], lambda channel: None)
    except OSError:
        print("lost", flush=True)
    else:
        print("won", flush=True)
    sys.stdin.readline()

print("ready", flush=True)
asyncio.run(main())
"""
        with contextlib.ExitStack() as stack:
            racers = [
                stack.enter_context(
                    subprocess.Popen(
                        [sys.executable, "-c", code, unix_path],
                        stdin=subprocess.PIPE,
                        stdout=subprocess.PIPE,
                        text=True,
                        bufsize=1,
                    )
                )
                for _ in range(3)
            ]
            for word in ("ready", "result"):
                answers = []
                for racer in racers:
                    assert racer.stdout is not None
                    answers.append(racer.stdout.readline().strip())
                if word == "result":
                    assert sorted(answers) == ["lost", "lost", "won"]
                for racer in racers:
                    assert racer.stdin is not None
                    racer.stdin.write("\n")

    async def test_a_server_that_waits_too_long_for_the_lock_gives_up(self, unix_path, monkeypatch):
        fcntl = pytest.importorskip("fcntl")
        monkeypatch.setattr(_endpoint, "_LOCK_TIMEOUT", 0.05)
        descriptor = os.open(Path(unix_path).parent, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            with pytest.raises(OSError, match=r"another process has kept .* locked") as caught:
                await serve(unix_path)
            assert caught.value.errno == errno.EBUSY
            fcntl.flock(descriptor, fcntl.LOCK_UN)
        finally:
            os.close(descriptor)
        async with await serve(unix_path):
            assert await hear(unix_path) == b"hello"

    async def test_a_file_system_without_locks_is_no_obstacle(self, unix_path, monkeypatch):
        fcntl = pytest.importorskip("fcntl")

        def no_locks(*args):
            raise OSError(errno.ENOLCK, "No locks available")

        monkeypatch.setattr(fcntl, "flock", no_locks)
        async with await serve(unix_path):
            assert await hear(unix_path) == b"hello"

    async def test_no_socket_is_left_when_the_file_cannot_be_protected(
        self, unix_path, monkeypatch
    ):
        def refuse(*args):
            raise PermissionError

        monkeypatch.setattr(os, "chmod", refuse)
        with pytest.raises(PermissionError):
            await serve(unix_path)

    async def test_no_socket_is_left_when_it_cannot_be_served(self, unix_path):
        with pytest.raises(TypeError):
            await serve(unix_path, unknown=1)

    async def test_a_directory_that_is_not_there_is_an_os_error(self, unix_path):
        with pytest.raises(FileNotFoundError):
            await serve(unix_path + "/below/sock")

    async def test_a_path_may_be_a_path_object(self, unix_path):
        async with await serve(Path(unix_path)):
            assert await hear(Path(unix_path)) == b"hello"

    @pytest.mark.skipif(sys.platform == "darwin", reason="the limit is another one there")
    async def test_a_path_of_107_bytes_works_and_of_108_is_a_clear_error(self, unix_path):
        assert MAX_UNIX_PATH == 107
        folder = Path(unix_path).parent
        longest = f"{folder}/".ljust(107, "x")
        async with await serve(longest):
            assert await hear(longest) == b"hello"

        for action in (serve, hear):
            with pytest.raises(AddressError, match=r"at most 107 bytes.*has 108.*shorter"):
                await action(longest + "x")
            with pytest.raises(ValueError, match="has 109"):
                await action(longest[:-1] + "äx")  # counted in bytes, not in characters
        assert not list(folder.iterdir())

    async def test_an_empty_path_is_a_clear_error(self):
        with pytest.raises(AddressError, match="Unix socket"):
            await serve("")

    async def test_windows_is_told_to_use_tcp(self, monkeypatch):
        monkeypatch.setattr(sys, "platform", "win32")
        with pytest.raises(AddressError, match=r"TCP|host"):
            _endpoint.check_unix_path("sock")

    async def test_a_bound_socket_can_be_passed(self, unix_path):
        sock = socket.socket(socket.AF_UNIX)
        sock.bind(unix_path)
        async with await serve(None, sock=sock):
            assert await hear(unix_path) == b"hello"

        assert Path(unix_path).exists()  # whoever made the file removes it


class TestTcp:
    async def test_port_0_is_a_free_one(self):
        async with await serve(("127.0.0.1", 0)) as server:
            assert port_of(server) > 0
            assert await hear(("127.0.0.1", port_of(server))) == b"hello"

    async def test_a_port_in_use_is_refused(self):
        async with await serve(("127.0.0.1", 0)) as server:
            with pytest.raises(OSError, match="in use"):
                await serve(("127.0.0.1", port_of(server)))
            assert await hear(("127.0.0.1", port_of(server))) == b"hello"

    @needs_ipv6
    async def test_all_addresses_of_a_host_get_the_same_port(self, monkeypatch):
        resolve_localhost(monkeypatch, "127.0.0.1", "::1")
        async with await serve(("localhost", 0)) as server:
            families = {sock.family for sock in server.sockets}
            assert families == {socket.AF_INET, socket.AF_INET6}
            assert len({sock.getsockname()[1] for sock in server.sockets}) == 1
            for host in ("127.0.0.1", "::1"):
                assert await hear((host, port_of(server))) == b"hello"
        assert server.sockets == ()

    @needs_ipv6
    async def test_another_port_is_tried_when_one_address_has_it_already(self, monkeypatch):
        resolve_localhost(monkeypatch, "127.0.0.1", "::1")
        loop = asyncio.get_running_loop()
        create_server = loop.create_server
        refused: list[int] = []

        async def first_is_taken(factory, host, port, **kwds):
            if host == "::1" and not refused:
                refused.append(port)
                raise OSError(errno.EADDRINUSE, "taken")
            return await create_server(factory, host, port, **kwds)

        monkeypatch.setattr(loop, "create_server", first_is_taken)
        async with await serve(("localhost", 0)) as server:
            assert refused
            assert len(server.sockets) == 2
            assert await hear(("::1", port_of(server))) == b"hello"

    async def test_an_address_that_this_machine_has_not_got_is_left_out(self, monkeypatch):
        resolve_localhost(monkeypatch, "192.0.2.1", "127.0.0.1")
        async with await serve(("localhost", 0)) as server:
            assert [sock.getsockname()[0] for sock in server.sockets] == ["127.0.0.1"]

    async def test_a_host_that_is_not_here_is_refused(self, monkeypatch):
        with pytest.raises(OSError, match=r"192\.0\.2\.1") as caught:
            await serve(("192.0.2.1", 0))
        assert caught.value.errno == errno.EADDRNOTAVAIL

        resolve_localhost(monkeypatch)
        with pytest.raises(OSError, match="none of the addresses"):
            await serve(("localhost", 0))

    async def test_a_bound_socket_can_be_passed(self):
        sock = socket.socket()
        sock.bind(("127.0.0.1", 0))
        async with await serve(None, sock=sock) as server:
            assert await hear(("127.0.0.1", port_of(server))) == b"hello"

    async def test_a_connected_socket_is_tried_once(self):
        ours, theirs = socket.socketpair()

        async def prepare(protocol):
            protocol.transport.abort()
            raise ConnectionResetError("it has hung up")

        loop = asyncio.get_running_loop()
        with theirs:
            async with asyncio.timeout(10):
                with pytest.raises(ConnectionResetError, match="hung up"):
                    await dial(Greeter, None, loop, timeout=60, sock=ours, prepare=prepare)

    async def test_a_connected_socket_can_be_passed(self):
        ours, theirs = socket.socketpair()
        with theirs:
            theirs.send(b"hi")
            assert await hear(None, sock=ours) == b"hi"

    @pytest.mark.parametrize(
        "addr",
        [None, 5, ("localhost",), ("localhost", "80"), (5, 80), b"bytes", ("localhost", 80, 1)],
        ids=repr,
    )
    async def test_what_is_no_address_is_a_clear_error(self, addr):
        for action in (serve, hear):
            with pytest.raises(AddressError, match=r"is no address: expected \('host', port\)"):
                await action(addr)

    async def test_without_a_host_the_loopback_interface_is_dialled(self):
        async with await serve(("127.0.0.1", 0)) as server:
            assert await hear((None, port_of(server))) == b"hello"


def resolve_localhost(monkeypatch, *addresses: str) -> None:
    """Let 'localhost' have these addresses."""
    loop = asyncio.get_running_loop()
    getaddrinfo = loop.getaddrinfo

    async def resolve(host, port, **kwds):
        hosts = addresses if host == "localhost" else [host]
        return [info for h in hosts for info in await getaddrinfo(h, port, **kwds)]

    monkeypatch.setattr(loop, "getaddrinfo", resolve)


class TestServer:
    async def test_closing_does_not_wait_for_clients_and_does_not_disturb_them(self):
        greeters = []

        def factory():
            greeters.append(Greeter())
            return greeters[-1]

        loop = asyncio.get_running_loop()
        server = await listen(factory, ("127.0.0.1", 0), loop)
        client = await dial(Listener, ("127.0.0.1", port_of(server)), loop)
        assert isinstance(client, Listener)
        await client.heard

        server.close()
        async with asyncio.timeout(2):
            await server.wait_closed()

        assert not server.is_serving()
        client.heard = loop.create_future()
        greeters[0].transport.write(b"still here")
        assert await client.heard == b"still here"
        client.transport.abort()
        await client.lost

    async def test_it_can_start_to_serve_later(self, unix_path):
        for addr in (("127.0.0.1", 0), unix_path):
            server = await serve(addr, start_serving=False)
            assert not server.is_serving()
            await server.start_serving()
            assert server.is_serving()
            async with server:
                address = addr if addr == unix_path else ("127.0.0.1", port_of(server))
                assert await hear(address) == b"hello"

    async def test_it_knows_its_loop_and_says_where_it_listens(self):
        async with await serve(("127.0.0.1", 0)) as server:
            assert server.get_loop() is asyncio.get_running_loop()
            assert str(port_of(server)) in repr(server)

    async def test_a_local_queue_has_no_sockets(self):
        queue = local_queue.LocalQueue("q")
        async with await serve(queue) as server:
            assert server.sockets == ()
            assert server.is_serving()
            assert await hear(queue) == b"hello"
        assert queue.server is None


class TestDialling:
    async def test_a_refused_attempt_is_made_once_and_keeps_its_type(self, unix_path):
        with pytest.raises(ConnectionRefusedError):
            await hear(("127.0.0.1", free_port()))
        with pytest.raises(FileNotFoundError):
            await hear(unix_path)
        with pytest.raises(ConnectionRefusedError):
            await hear(local_queue.LocalQueue("nobody"))

    async def test_a_number_of_seconds_bounds_the_attempts_and_the_last_error_is_kept(
        self, unix_path
    ):
        loop = asyncio.get_running_loop()
        for error, addr in (
            (ConnectionRefusedError, ("127.0.0.1", free_port())),
            (FileNotFoundError, unix_path),
        ):
            began = loop.time()
            with pytest.raises(error):
                await hear(addr, timeout=0.2)
            assert 0.05 < loop.time() - began < 1

    @pytest.mark.parametrize("timeout", [10, None])
    async def test_it_tries_again_until_the_server_comes_up(self, unix_path, timeout):
        attempted = asyncio.Event()

        async def attempt():
            attempted.set()
            return await hear(unix_path)

        waiting = asyncio.create_task(retry(attempt, timeout, "connecting"))
        await attempted.wait()
        async with await serve(unix_path):
            assert await waiting == b"hello"

    @pytest.mark.parametrize("timeout", [10, None])
    async def test_the_dial_itself_tries_again(self, unix_path, timeout):
        waiting = asyncio.create_task(hear(unix_path, timeout=timeout))
        await asyncio.sleep(0.02)
        assert not waiting.done()
        async with await serve(unix_path):
            assert await waiting == b"hello"

    async def test_without_a_bound_an_attempt_that_hangs_is_followed_by_another(self, monkeypatch):
        monkeypatch.setattr(_endpoint, "ATTEMPT_TIMEOUT", 0.02)
        attempts = 0

        async def attempt():
            nonlocal attempts
            attempts += 1
            if attempts < 3:
                await asyncio.get_running_loop().create_future()
            return "in the end"

        assert await retry(attempt, None, "connecting") == "in the end"

    async def test_a_single_attempt_is_bounded(self, monkeypatch):
        monkeypatch.setattr(_endpoint, "ATTEMPT_TIMEOUT", 0.05)
        never = asyncio.get_running_loop().create_future()
        with pytest.raises(ConnectTimeout, match=r"knocking took more than 0\.05 s"):
            await retry(lambda: never, 0, "knocking")

    async def test_an_attempt_that_hangs_ends_with_the_given_time(self):
        loop = asyncio.get_running_loop()
        began = loop.time()
        with pytest.raises(TimeoutError, match=r"knocking took more than 0\.1 s"):
            await retry(loop.create_future, 0.1, "knocking")
        assert loop.time() - began < 1

    async def test_time_that_is_over_after_a_pause_does_not_hide_the_error(self, monkeypatch):
        loop = asyncio.get_running_loop()
        real, skipped = loop.time, [0.0]

        async def oversleep(delay):
            skipped[0] += delay + 1

        async def refused():
            raise ConnectionRefusedError

        monkeypatch.setattr(loop, "time", lambda: real() + skipped[0])
        monkeypatch.setattr(asyncio, "sleep", oversleep)
        with pytest.raises(ConnectionRefusedError):
            await retry(refused, 0.5, "knocking")

    @pytest.mark.parametrize(
        ("telling", "error"), [(10.0, ConnectionRefusedError), (0.0, ConnectTimeout)]
    )
    async def test_a_last_attempt_that_had_no_time_does_not_hide_it_either(
        self, monkeypatch, telling, error
    ):
        monkeypatch.setattr(_endpoint, "_TELLING", telling)
        attempts = 0

        async def attempt():
            nonlocal attempts
            attempts += 1
            if attempts == 1:
                raise ConnectionRefusedError
            await asyncio.get_running_loop().create_future()

        with pytest.raises(error):
            await retry(attempt, 0.1, "knocking")
        assert attempts == 2

    async def test_a_timeout_of_the_attempt_itself_is_an_error_like_others(self):
        calls = []

        async def attempt():
            calls.append(1)
            raise TimeoutError(errno.ETIMEDOUT, "no route")

        with pytest.raises(TimeoutError, match="no route"):
            await retry(attempt, 0, "knocking")
        assert len(calls) == 1

    async def test_a_certificate_that_is_not_trusted_is_not_tried_again(self):
        calls = []

        async def attempt():
            calls.append(1)
            raise ssl.SSLCertVerificationError

        with pytest.raises(ssl.SSLCertVerificationError):
            await retry(attempt, 10, "knocking")
        assert len(calls) == 1

    async def test_other_errors_are_not_tried_again(self):
        async def attempt():
            raise LookupError

        with pytest.raises(LookupError):
            await retry(attempt, None, "knocking")


class TestAddresses:
    def test_socket_address(self):
        local_queue.clear_queue_cache()
        assert socket_address(TcpAddress("h", 1)) == ("h", 1)
        assert socket_address(IpcAddress("/p")) == "/p"
        assert socket_address(LocalAddress("q")) is local_queue.get_queue("q")

    def test_describe(self):
        assert describe(("h", 1)) == "h:1"
        assert describe(None) == "a connected socket"
        assert describe("/p") == "/p"


class TestAdvertised:
    @pytest.fixture(autouse=True)
    def fresh_warning(self):
        _endpoint._warn_of_plain_tcp.cache_clear()
        yield
        _endpoint._warn_of_plain_tcp.cache_clear()

    @pytest.fixture
    def fqdn(self, monkeypatch):
        monkeypatch.setattr(socket, "getfqdn", lambda *args: "here.example")
        return "here.example"

    @pytest.mark.parametrize("host", [None, "", "0.0.0.0", "::"])
    async def test_everywhere_is_advertised_as_the_name_of_this_machine(self, host, fqdn, caplog):
        if host == "::" and not has_ipv6():
            pytest.skip("this machine has no IPv6")
        async with await serve((host, 0)) as server:
            port = port_of(server)
            assert await advertised((host, 0), server, None, tls=False) == TcpAddress(fqdn, port)
            named = await advertised((host, 0), server, "other.example", tls=False)
            assert named == TcpAddress("other.example", port)
            dialled = "::1" if host == "::" else "127.0.0.1"
            assert await hear((dialled, port)) == b"hello"

    async def test_it_is_warned_of_once_and_not_with_tls(self, fqdn, caplog):
        with caplog.at_level(logging.WARNING, "aiomas"):
            async with await serve(("0.0.0.0", 0)) as server:
                await advertised(("0.0.0.0", 0), server, None, tls=True)
                await advertised(("127.0.0.1", 0), server, None, tls=False)
                assert not caplog.records
                for _ in range(2):
                    await advertised(("0.0.0.0", 0), server, None, tls=False)
        (record,) = caplog.records
        assert record.name.startswith("aiomas.")
        assert "without TLS" in record.getMessage()

    async def test_a_host_is_advertised_as_it_is_given(self, unix_path):
        async with await serve(("127.0.0.1", 0)) as server:
            port = port_of(server)
            assert await advertised(("localhost", 0), server, None, tls=False) == TcpAddress(
                "localhost", port
            )
        async with await serve(unix_path) as server:
            assert await advertised(unix_path, server, None, tls=False) == IpcAddress(unix_path)
        queue = local_queue.LocalQueue("q")
        async with await serve(queue) as server:
            assert await advertised(queue, server, None, tls=False) == LocalAddress("q")

    @needs_ipv6
    async def test_an_ipv6_address_is_in_brackets_in_the_url(self):
        async with await serve(("::1", 0)) as server:
            address = await advertised(("::1", 0), server, None, tls=False)
            assert address.url == f"tcp://[::1]:{port_of(server)}/"


async def test_a_server_can_serve_until_it_is_cancelled(unix_path):
    server = await serve(unix_path, start_serving=False)
    serving = asyncio.create_task(server.serve_forever())
    await asyncio.sleep(0)
    assert server.is_serving()
    assert await hear(unix_path) == b"hello"
    serving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await serving
    assert not Path(unix_path).exists()


async def test_closing_a_server_ends_serving_for_ever(unix_path):
    for addr in (unix_path, local_queue.get_queue("for ever")):
        server = await serve(addr)
        serving = asyncio.create_task(server.serve_forever())
        await asyncio.sleep(0)
        server.close()
        with pytest.raises(asyncio.CancelledError):
            await serving
