"""Section 1.8: transport security."""

# ruff: noqa: T201 - the examples print what they show

from __future__ import annotations

import asyncio
import shutil
import ssl
import subprocess

import pytest
import trustme

import aiomas


async def client(addr, ssl):
    """Connect to *addr*, send "ohai" to the server, print its reply and terminate."""
    channel = await aiomas.channel.open_connection(addr, ssl=ssl)
    reply = await channel.send("ohai")
    print(reply)
    channel.close()


async def handle_client(channel):
    """Print a client's request, send a reply and terminate."""
    request = await channel.recv()
    print(request.content)
    await request.reply("cya")
    channel.close()


class Callee(aiomas.Agent):
    @aiomas.expose
    def spam(self, times):
        return "spam" * times

    async def call(self, addr):
        callee = await self.container.connect(addr)
        return await callee.spam(3)


def call_between(one, two):
    """Return what agents of two containers tell each other, in both directions."""
    a, b = Callee(one), Callee(two)
    return [aiomas.run(a.call(b.addr)), aiomas.run(b.call(a.addr))]


@pytest.mark.skipif(shutil.which("openssl") is None, reason="there is no openssl command")
def test_section_1_8_2_and_3_certificates_made_by_openssl(loop, tmp_path):
    def openssl(arguments):
        subprocess.run(
            ["openssl", *arguments.split()], cwd=tmp_path, check=True, capture_output=True
        )

    openssl("genrsa -aes256 -passout pass:spam -out ca.key 2048")
    openssl("req -new -x509 -nodes -key ca.key -passin pass:spam -out ca.pem -subj /CN=ca -days 9")
    openssl("genrsa -out device.key 2048")
    openssl("req -new -key device.key -out device.csr -subj /CN=localhost")
    openssl(
        "x509 -CA ca.pem -CAkey ca.key -passin pass:spam -CAcreateserial"
        " -req -in device.csr -out device.pem -days 9"
    )

    certs = aiomas.SSLCerts(*(tmp_path / name for name in ("ca.pem", "device.pem", "device.key")))
    # Certificates like these, with a common name only, have to be asked for today.
    contexts = (
        aiomas.make_ssl_server_context(*certs, strict=False),
        aiomas.make_ssl_client_context(*certs, strict=False),
    )
    one = aiomas.Container.create(("localhost", 0), ssl=contexts)
    two = aiomas.Container.create(("localhost", 0), ssl=contexts)
    assert call_between(one, two) == ["spamspamspam"] * 2
    one.shutdown()
    two.shutdown()


# The protocol that the example asks for still exists, and is deprecated.
@pytest.mark.filterwarnings("ignore:ssl.PROTOCOL_TLSv1_2 is deprecated:DeprecationWarning")
def test_section_1_8_4_contexts_made_by_hand(loop, certs, capsys):
    server_ctx = ssl.SSLContext(ssl.PROTOCOL_TLSv1_2)
    server_ctx.set_ciphers("ECDH+AESGCM")
    server_ctx.load_cert_chain(certfile=certs.certfile, keyfile=certs.keyfile)
    server_ctx.verify_mode = ssl.CERT_REQUIRED
    server_ctx.load_verify_locations(cafile=certs.cafile)
    server_ctx.options |= ssl.OP_SINGLE_ECDH_USE
    server_ctx.options |= ssl.OP_NO_COMPRESSION

    server = aiomas.run(
        aiomas.channel.start_server(("127.0.0.1", 0), handle_client, ssl=server_ctx)
    )
    addr = server.sockets[0].getsockname()

    client_ctx = ssl.SSLContext(ssl.PROTOCOL_TLSv1_2)
    client_ctx.set_ciphers("ECDH+AESGCM")
    client_ctx.verify_mode = ssl.CERT_REQUIRED
    client_ctx.load_verify_locations(cafile=certs.cafile)
    client_ctx.check_hostname = True
    client_ctx.load_cert_chain(certfile=certs.certfile, keyfile=certs.keyfile)

    aiomas.run(client(addr, client_ctx))
    server.close()
    aiomas.run(server.wait_closed())

    assert capsys.readouterr().out == "ohai\ncya\n"


def test_section_1_8_4_contexts_made_by_aiomas(loop, certs, capsys):
    server_ctx = aiomas.make_ssl_server_context(*certs)
    server = aiomas.run(
        aiomas.channel.start_server(("127.0.0.1", 0), handle_client, ssl=server_ctx)
    )
    addr = server.sockets[0].getsockname()

    client_ctx = aiomas.make_ssl_client_context(*certs)
    aiomas.run(client(addr, client_ctx))
    server.close()
    aiomas.run(server.wait_closed())

    assert capsys.readouterr().out == "ohai\ncya\n"


async def test_section_1_8_4_rpc_connections_take_contexts_as_well(certs):
    service = aiomas.rpc.RoutingDict({"spam": aiomas.expose(lambda times: "spam" * times)})
    server_ctx = aiomas.make_ssl_server_context(*certs)
    client_ctx = aiomas.make_ssl_client_context(*certs)

    async with await aiomas.rpc.start_server(
        ("127.0.0.1", 0), service.router, ssl=server_ctx
    ) as server:
        rpc = await aiomas.rpc.open_connection(server.sockets[0].getsockname(), ssl=client_ctx)
        assert await rpc.remote.spam(2) == "spamspam"
        assert rpc.channel.get_extra_info("cipher") is not None
        await rpc.close()


def test_section_1_8_5_a_container_with_certificates(loop, certs):
    sslcerts = aiomas.SSLCerts(certs.cafile, certs.certfile, certs.keyfile)
    c = aiomas.Container.create(("127.0.0.1", 0), ssl=sslcerts)
    d = aiomas.Container.create(("127.0.0.1", 0), ssl=sslcerts)
    assert call_between(c, d) == ["spamspamspam"] * 2
    c.shutdown()
    d.shutdown()


def test_section_1_8_5_a_container_with_contexts(loop, certs):
    server_ctx = aiomas.make_ssl_server_context(*certs)
    client_ctx = aiomas.make_ssl_client_context(*certs)
    c = aiomas.Container.create(("127.0.0.1", 0), ssl=(server_ctx, client_ctx))
    d = aiomas.Container.create(("127.0.0.1", 0), ssl=(server_ctx, client_ctx))
    assert call_between(c, d) == ["spamspamspam"] * 2
    c.shutdown()
    d.shutdown()


async def test_section_1_8_5_containers_that_do_not_trust_each_other_do_not_talk(certs, tmp_path):
    other = trustme.CA()
    leaf = other.issue_cert("127.0.0.1")
    other.cert_pem.write_to_path(tmp_path / "ca.pem")
    leaf.cert_chain_pems[0].write_to_path(tmp_path / "device.pem")
    leaf.private_key_pem.write_to_path(tmp_path / "device.key")
    strange = aiomas.SSLCerts(*(tmp_path / n for n in ("ca.pem", "device.pem", "device.key")))

    loop = asyncio.get_running_loop()
    others = loop.get_exception_handler()
    loop.set_exception_handler(lambda *_: None)  # in debug mode a server reports whom it refused

    async with (
        aiomas.Container.open(("127.0.0.1", 0), ssl=certs) as c,
        aiomas.Container.open(("127.0.0.1", 0), ssl=strange) as d,
        aiomas.Container.open(("127.0.0.1", 0)) as plain,
    ):
        callee = Callee(c)
        with pytest.raises(ssl.SSLCertVerificationError):
            await d.connect(callee.addr)
        with pytest.raises(ConnectionError):
            await asyncio.wait_for(plain.connect(callee.addr), timeout=10)
    loop.set_exception_handler(others)
