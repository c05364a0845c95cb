"""Handlers know who is calling, and a container decides who may call what."""

from __future__ import annotations

import dataclasses
import hashlib
import ipaddress
import logging
import ssl

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization

import aiomas
from aiomas import MsgPack, Outcome, RemoteException, SSLCerts
from aiomas.channel import open_connection
from aiomas.exceptions import HandshakeError, PermissionDenied
from aiomas.tls import PeerIdentity
from tests.tls.authority import NAMES
from tests.tls.world import Worker, port_of, worker

URI = "spiffe://ca/boiler"


@pytest.fixture(scope="session")
def boiler(ca):
    return ca.issue("boiler, at home", sans=[*NAMES, x509.UniformResourceIdentifier(URI)])


@pytest.fixture(scope="session")
def stranger(ca):
    return ca.issue("stranger", sans=[*NAMES, x509.UniformResourceIdentifier("spiffe://ca/x")])


async def test_identity_of_the_caller(boiler, certs):
    async with worker(certs) as there, worker(boiler.certs) as here:
        proxy = await here.container.connect(there.addr)
        await proxy.echo(1)
        await proxy.echo(2)
    identity, again = there.callers
    certificate = boiler.certificate
    der = certificate.public_bytes(serialization.Encoding.DER)
    assert identity == PeerIdentity(
        uri=URI,
        dns_names=("localhost",),
        ips=("127.0.0.1", "::1"),
        serial=certificate.serial_number,
        subject=r"commonName=boiler\, at home",
        issuer="commonName=ca",
        fingerprint=hashlib.sha256(der).hexdigest(),
    )
    assert identity.serial_hex == f"{certificate.serial_number:x}"
    assert str(identity) == URI
    assert again is identity  # read once for each connection
    with pytest.raises(dataclasses.FrozenInstanceError):
        identity.uri = "spiffe://ca/other"


async def test_identity_of_a_server_that_calls_back(boiler, certs):
    async with worker(boiler.certs) as there, worker(certs) as here:
        proxy = await here.container.connect(there.addr)
        await proxy.ask(here, 1)
    (identity,) = here.callers
    assert identity.uri == URI


@pytest.mark.parametrize("uris", [[], ["spiffe://ca/a", "spiffe://ca/b"]], ids=["none", "two"])
async def test_a_peer_without_exactly_one_uri_has_none(ca, certs, uris):
    device = ca.issue("d", sans=[*NAMES, *map(x509.UniformResourceIdentifier, uris)])
    async with worker(certs) as there, worker(device.certs) as here:
        await (await here.container.connect(there.addr)).echo(1)
    (identity,) = there.callers
    assert identity.uri is None
    assert str(identity) == f"commonName=d (serial {device.certificate.serial_number:x})"


async def test_no_identity_without_tls(certs, unix_path):
    async with worker(None) as there, worker(None) as here:
        await (await here.container.connect(there.addr)).echo(1)
        await (await there.container.connect(there.addr)).echo(1)
    assert there.callers == [None, None]
    async with aiomas.Container.open(unix_path, ssl=certs) as unix, worker(certs) as here:
        agent = Worker(unix)
        await (await here.container.connect(agent.addr)).echo(1)
        await (await unix.connect(agent.addr)).echo(1)
    assert agent.callers == [None, None]


class Policy:
    """Lets the boiler in, and keeps what it was asked."""

    def __init__(self):
        self.asked = []

    def __call__(self, identity, aid, method):
        self.asked.append((identity.uri, aid, method))
        return identity.uri == URI


@pytest.mark.parametrize("codec", [None, MsgPack], ids=["JSON", "MsgPack"])
async def test_authorised_and_unauthorised_caller(boiler, stranger, certs, codec, caplog):
    policy = Policy()
    async with (
        worker(certs, authorize=policy, codec=codec) as there,
        worker(boiler.certs, codec=codec) as friend,
        worker(stranger.certs, codec=codec) as here,
    ):
        assert await (await friend.container.connect(there.addr)).echo(1) == 1
        proxy = await here.container.connect(there.addr)
        with pytest.raises(PermissionDenied, match="you may not call 'agents/0/echo'") as caught:
            await proxy.echo(2)
        assert isinstance(caught.value, PermissionError | RemoteException)
        assert caught.value.outcome is Outcome.NOT_EXECUTED
        assert caught.value.outcome.has_not_run
        # Each call is asked for, what does not exist as well; and the connection lives on.
        with pytest.raises(PermissionDenied):
            await proxy.meter.nothing()
        (connection,) = here.container._pool.clients
        assert connection.channel.is_open
        assert await (await there.container.connect(here.addr)).echo(3) == 3  # it can be called
    assert [identity.uri for identity in there.callers] == [URI]
    assert policy.asked == [
        (URI, "0", "echo"),
        ("spiffe://ca/x", "0", "echo"),
        ("spiffe://ca/x", "0", "meter/nothing"),
    ]
    assert "Refusing a call of 'agents/0/echo' by spiffe://ca/x" in caplog.text


async def test_a_peer_that_we_have_dialled_is_asked_for_as_well(stranger, certs):
    async with worker(stranger.certs) as there, worker(certs, authorize=Policy()) as here:
        proxy = await here.container.connect(there.addr)
        with pytest.raises(RemoteException, match="PermissionDenied"):
            await proxy.ask(here, 1)
    assert here.callers == []


async def test_a_one_way_call_is_refused_as_well(stranger, certs):
    policy = Policy()
    async with worker(certs, authorize=policy) as there, worker(stranger.certs) as here:
        proxy = await here.container.connect(there.addr)
        await aiomas.with_options(proxy, one_way=True).echo(1)
        with pytest.raises(PermissionDenied):
            await proxy.echo(2)
    assert there.callers == []
    assert len(policy.asked) == 2


async def test_a_peer_of_an_older_version_gets_an_error_reply(stranger, certs):
    async with worker(certs, authorize=Policy()) as there:
        context = aiomas.make_ssl_client_context(*stranger.certs)
        channel = await open_connection(("127.0.0.1", port_of(there)), ssl=context)
        for path in ("agents/0/echo", "nothing", "agents//echo", "/agents/0/echo", "agents"):
            with pytest.raises(RemoteException, match=f"PermissionError.*{path}") as caught:
                await channel.send([path, [1], {}])
            assert type(caught.value) is RemoteException
        assert await channel.send(["validate_aid", ["0"], {}]) == "Worker"
        await channel.close()
    assert there.callers == []


async def test_callers_without_tls_are_not_asked_for(certs, unix_path):
    policy = Policy()
    async with (
        aiomas.Container.open(unix_path, ssl=certs, authorize=policy) as container,
        aiomas.Container.open(f"{unix_path}2") as other,
    ):
        agent = Worker(container)
        for caller in (container, other):
            assert await (await caller.connect(agent.addr)).echo(1) == 1
    assert policy.asked == []


def broken(identity, aid, method):
    raise KeyError(identity.uri)


class CoroutineObject:
    async def __call__(self, identity, aid, method):
        return True


async def coroutine(identity, aid, method):
    return True


@pytest.mark.parametrize(
    ("authorize", "reason"),
    [
        (broken, "KeyError: 'spiffe://ca/boiler'"),
        (lambda *_: None, "it returned None"),
        (lambda *_: 1, "it returned 1"),
        (lambda *_: "yes", "it returned 'yes'"),
        (lambda: True, "TypeError"),
    ],
    ids=["raises", "None", "1", "yes", "takes nothing"],
)
async def test_a_function_that_does_not_decide_refuses(boiler, certs, authorize, reason, caplog):
    async with worker(certs, authorize=authorize) as there, worker(boiler.certs) as here:
        proxy = await here.container.connect(there.addr)
        with pytest.raises(PermissionDenied) as caught:
            await proxy.echo(1)
        assert reason not in str(caught.value)  # that is nobody else's business
    assert there.callers == []
    assert reason in caplog.text
    assert "authorize failed for a call of 'agents/0/echo'" in caplog.text
    assert any(record.levelno == logging.ERROR for record in caplog.records)


async def test_whom_a_context_lets_in_without_a_certificate_may_call_nothing(certs, caplog):
    lax = aiomas.make_ssl_server_context(*certs)
    lax.verify_mode = ssl.CERT_NONE
    contexts = (lax, aiomas.make_ssl_client_context(*certs))
    async with worker(contexts, authorize=lambda *_: True) as there, worker(certs) as here:
        proxy = await here.container.connect(there.addr)
        with pytest.raises(PermissionDenied):
            await proxy.echo(1)
    assert "its caller is not known" in caplog.text


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"authorize": Policy()}, ValueError, "needs ssl="),
        ({"authorize": "boiler"}, TypeError, "plain function"),
        ({"authorize": coroutine}, TypeError, "plain function"),
        ({"authorize": CoroutineObject()}, TypeError, "plain function"),
    ],
    ids=["no TLS", "no function", "coroutine function", "object with one"],
)
async def test_what_can_be_no_policy(certs: SSLCerts, options, error, message):
    if error is TypeError:
        options = {**options, "ssl": certs}
    with pytest.raises(error, match=message):
        await aiomas.Container.create(("127.0.0.1", 0), **options, as_coro=True)


async def test_addresses_are_written_as_python_writes_them(ca, certs):
    ip = x509.IPAddress(ipaddress.ip_address("2001:db8::1"))
    device = ca.issue("ip", sans=[ip])
    async with worker(certs) as there, worker(device.certs) as here:
        await (await here.container.connect(there.addr)).echo(1)
    assert there.callers[0].ips == ("2001:db8::1",)


async def test_a_token_is_asked_for_over_tls_as_well(certs):
    async with worker(certs, token="secret") as there:
        for token, fits in (("secret", True), (None, False), ("geheim", False)):
            async with worker(certs, token=token) as here:
                if fits:
                    assert await (await here.container.connect(there.addr)).echo("ohai") == "ohai"
                else:
                    with pytest.raises(HandshakeError, match="belongs to a cluster"):
                        await here.container.connect(there.addr)
        assert len(there.callers) == 1
