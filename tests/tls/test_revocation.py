"""Revoked certificates, and revocation lists that are no good."""

from __future__ import annotations

import ssl

import pytest

import aiomas
from tests.tls.authority import DAY, Authority
from tests.tls.world import RawTls, port_of, refused, talk, talk_both_ways, worker


async def test_who_is_not_in_the_list_is_let_in(ca):
    crl = ca.revoke(ca.issue())
    one, other = (ca.issue(name).certs._replace(crlfile=crl) for name in ("one", "other"))
    await talk_both_ways(one, other)


async def test_revoked_client(ca, refusals):
    bad = ca.issue()
    refusals.good = refusals.good._replace(crlfile=ca.revoke(bad))
    await refusals.as_client(bad.certs, "certificate revoked", "CERTIFICATE_REVOKED")


async def test_revoked_server(ca, refusals):
    bad = ca.issue()
    refusals.good = refusals.good._replace(crlfile=ca.revoke(bad))
    await refusals.as_server(bad.certs, "certificate revoked")


async def test_client_that_was_revoked_after_it_had_been_connected(ca):
    good, bad = ca.issue("good"), ca.issue("bad")
    async with worker(good.certs) as there, worker(bad.certs) as here:
        assert await (await here.container.connect(there.addr)).echo(1) == 1
        await there.container.reload_tls(good.certs._replace(crlfile=ca.revoke(bad)))
        async with worker(bad.certs) as again:
            with pytest.raises(ConnectionError, match="CERTIFICATE_REVOKED"):
                await again.container.connect(there.addr)
        # The connection that it has is not affected; without it, it is out.
        proxy = here.container.proxy(there.addr)
        assert await proxy.echo(2) == 2
        (connection,) = here.container._pool.clients
        await connection.close()
        with pytest.raises(ConnectionError, match="CERTIFICATE_REVOKED"):
            await proxy.echo(3)


async def test_server_that_was_revoked_after_it_had_been_connected(ca):
    good, bad = ca.issue("good"), ca.issue("bad")
    async with worker(bad.certs) as there, worker(good.certs) as here:
        proxy = await here.container.connect(there.addr)
        assert await proxy.echo(1) == 1
        await here.container.reload_tls(good.certs._replace(crlfile=ca.revoke(bad)))
        (connection,) = here.container._pool.clients
        await connection.close()
        with pytest.raises(ConnectionError, match="certificate revoked"):
            await proxy.echo(2)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=str)
async def test_no_session_gets_a_revoked_client_in_again(ca, version):
    good, bad = ca.issue("good"), ca.issue("bad")
    context = aiomas.make_ssl_client_context(*bad.certs)
    context.options &= ~ssl.OP_NO_TICKET  # the client would like to
    context.minimum_version = context.maximum_version = version
    async with worker(good.certs) as there:
        port = port_of(there)
        async with RawTls.connect(port, context) as client:
            assert await client.connect_and_ask() == b'[1, 0, "Worker"]'
            session = client.ssl.session
        assert not (session is not None and session.has_ticket)
        async with RawTls.connect(port, context, session) as client:
            await client.shake_hands()
            # The older version has sessions without tickets, and Python cannot switch them off.
            assert client.ssl.session_reused is (version is ssl.TLSVersion.TLSv1_2)
        await there.container.reload_tls(good.certs._replace(crlfile=ca.revoke(bad)))
        async with RawTls.connect(port, context, session) as client:
            with pytest.raises(ssl.SSLError, match="CERTIFICATE_REVOKED"):
                await client.connect_and_ask()
            assert not client.ssl.session_reused


async def test_stale_list(ca, refusals):
    stale = refusals.good._replace(crlfile=ca.revoke(next_update=-DAY))
    await refused(stale, refusals.good, "ALERT")
    await refused(refusals.good, stale, "CRL has expired")


async def test_forged_list(folder, ca, refusals):
    forger = Authority(folder, "crl-forger")
    forged = refusals.good._replace(crlfile=ca.revoke(forged_with=forger.key))
    await refused(forged, refusals.good, "ALERT")
    await refused(refusals.good, forged, "CRL signature failure")


async def test_list_of_another_authority(ca, other_ca, refusals):
    foreign = refusals.good._replace(crlfile=other_ca.revoke())
    await refused(foreign, refusals.good, "ALERT")
    await refused(refusals.good, foreign, "unable to get certificate CRL")


async def test_missing_list(ca, certs, tmp_path):
    for file in (tmp_path / "missing.pem", tmp_path / "empty.pem"):
        with pytest.raises(OSError, match=file.name):
            async with worker(certs._replace(crlfile=file)):
                pytest.fail("it is not to run without the list")
        (tmp_path / "empty.pem").touch()


async def test_list_that_holds_a_certificate_is_refused(ca, other_ca, certs, tmp_path):
    file = tmp_path / "crl.pem"
    file.write_bytes(ca.revoke().read_bytes() + other_ca.pem)
    with pytest.raises(ssl.SSLError, match=r"and with nothing else, is needed: .*crl\.pem"):
        aiomas.make_ssl_server_context(*certs._replace(crlfile=file))


async def test_lists_of_two_authorities(ca, other_ca, tmp_path):
    old, new = ca.issue("old"), other_ca.issue("new")
    bad = ca.issue("bad"), other_ca.issue("bad")
    crl = tmp_path / "both.pem"
    crl.write_bytes(ca.revoke(bad[0]).read_bytes() + other_ca.revoke(bad[1]).read_bytes())
    one, other = (device.trusting(ca, other_ca, crlfile=crl) for device in (old, new))
    await talk_both_ways(one, other)
    for revoked in bad:
        await refused(one, revoked.trusting(ca, other_ca), "CERTIFICATE_REVOKED")


async def test_without_a_list_nobody_is_looked_for_in_one(ca, certs):
    bad = ca.issue()
    ca.revoke(bad)
    await talk(certs, bad.certs)
