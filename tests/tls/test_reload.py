"""Certificates are exchanged while a container runs, and bad ones are not taken."""

from __future__ import annotations

import asyncio
import shutil
import ssl
from pathlib import Path

import pytest
from cryptography import x509

import aiomas
from aiomas import SSLCerts
from tests.tls.authority import DAY, Authority, Issued
from tests.tls.world import Worker, refused, talk_both_ways, worker


class Place:
    """Files of one machine, which are replaced by others."""

    def __init__(self, folder: Path, issued: Issued) -> None:
        self.certs = SSLCerts(*(folder / name for name in ("ca.pem", "device.pem", "device.key")))
        self.put(issued.certs)

    def put(self, certs: SSLCerts) -> None:
        for source, target in zip(certs, self.certs, strict=True):
            shutil.copy(source, target)


@pytest.fixture
def place(device: Issued, tmp_path: Path) -> Place:
    return Place(tmp_path, device)


async def serial_of_server(here: Worker, there: Worker) -> int:
    """Return the number of the certificate that a new connection is shown."""
    for client in here.container._pool.clients:
        await client.close()
    await here.container.connect(there.addr)
    (client,) = here.container._pool.clients
    identity = client.channel.identity
    assert identity is not None
    return identity.serial


async def serial_of_client(here: Worker, there: Worker) -> int:
    """Return the number of the certificate that a new connection shows."""
    for client in here.container._pool.clients:
        await client.close()
    proxy = await here.container.connect(there.addr)
    await proxy.echo(1)
    return there.callers[-1].serial


async def test_reload_of_the_same_files(ca, device, certs, place):
    new = ca.issue("new")
    async with worker(place.certs) as one, worker(certs) as other:
        assert await serial_of_server(other, one) == device.certificate.serial_number
        assert await serial_of_client(one, other) == device.certificate.serial_number
        place.put(new.certs)
        assert await serial_of_server(other, one) == device.certificate.serial_number
        await one.container.reload_tls()
        assert await serial_of_server(other, one) == new.certificate.serial_number
        assert await serial_of_client(one, other) == new.certificate.serial_number


async def test_reload_of_other_files_which_are_read_again_later(ca, device, certs, place):
    async with worker(certs) as one, worker(certs) as other:
        await one.container.reload_tls(place.certs)
        new = ca.issue("new")
        place.put(new.certs)
        await one.container.reload_tls()
        assert await serial_of_server(other, one) == new.certificate.serial_number


async def test_reload_of_contexts(ca, device, certs):
    new = ca.issue("new")
    async with worker(certs) as one, worker(certs) as other:
        contexts = (
            aiomas.make_ssl_server_context(*new.certs),
            aiomas.make_ssl_client_context(*new.certs),
        )
        await one.container.reload_tls(contexts)
        assert await serial_of_server(other, one) == new.certificate.serial_number
        assert await serial_of_client(one, other) == new.certificate.serial_number
        with pytest.raises(ValueError, match="pass new contexts"):
            await one.container.reload_tls()


async def test_connections_and_calls_live_on(ca, certs):
    async with worker(certs) as one, worker(certs) as other:
        proxy = await other.container.connect(one.addr)
        held = asyncio.ensure_future(proxy.hold("held"))
        await one.holding.wait()
        await one.container.reload_tls(ca.issue("new").certs)
        assert await proxy.echo(1) == 1
        one.let_go.set()
        assert await held == "held"
        assert len(one.container._accepted) == 1


def cases(ca: Authority, other_ca: Authority, device: Issued) -> dict[str, tuple[SSLCerts, str]]:
    stranger = other_ca.issue()
    good = ca.issue("good").certs
    junk = Path(good.certfile).with_suffix(".junk")
    junk.write_text("no certificate")
    return {
        "key of another": (good._replace(keyfile=device.certs.keyfile), "(?i)mismatch"),
        "wrong CA": (stranger.trusting(ca), "unable to get local issuer"),
        "expired": (ca.issue(validity=(-2 * DAY, -DAY)).certs, "has expired"),
        "not yet valid": (ca.issue(validity=(DAY, 2 * DAY)).certs, "not yet valid"),
        "old way": (ca.issue(aki=False).certs, r"Missing Authority.*strict=False"),
        "junk": (good._replace(certfile=junk), r"\.junk"),
        "no file": (good._replace(keyfile=junk.with_name("nothing")), "nothing"),
        "stale list": (good._replace(crlfile=ca.revoke(next_update=-DAY)), "CRL has expired"),
        "foreign list": (good._replace(crlfile=other_ca.revoke()), "unable to get certificate CRL"),
    }


@pytest.mark.parametrize(
    "case",
    [
        "key of another",
        "wrong CA",
        "expired",
        "not yet valid",
        "old way",
        "junk",
        "no file",
        "stale list",
        "foreign list",
        "revoked",
    ],
)
async def test_bad_certificates_leave_the_old_ones_serving(ca, other_ca, device, certs, case):
    if case == "revoked":
        revoked = ca.issue()
        bad, message = revoked.certs._replace(crlfile=ca.revoke(revoked)), "revoked"
    else:
        bad, message = cases(ca, other_ca, device)[case]
    async with worker(certs) as one, worker(certs) as other:
        with pytest.raises(OSError, match=message):
            await one.container.reload_tls(bad)
        assert await serial_of_server(other, one) == device.certificate.serial_number
        assert await serial_of_client(one, other) == device.certificate.serial_number
        await one.container.reload_tls()  # of the old ones, which are still known


async def test_new_contexts_check_names_as_the_old_ones_did(ca, certs):
    elsewhere = ca.issue(sans=[x509.DNSName("elsewhere.example")])
    async with worker(elsewhere.certs) as there, worker(certs) as here:
        await here.container.reload_tls()
        with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
            await here.container.connect(there.addr)


async def test_what_cannot_be_reloaded(certs):
    async with worker(None) as plain, worker(certs) as tls:
        with pytest.raises(ValueError, match="made without ssl="):
            await plain.container.reload_tls(certs)
        with pytest.raises(TypeError, match="SSLCerts or two SSLContexts"):
            await tls.container.reload_tls("ca.pem")  # type: ignore[arg-type]


async def test_rotation_of_the_authority_with_overlap(folder, ca, refusals):
    """Machines move one after the other; at no time is one of them out."""
    new_ca = Authority(folder, "new-ca")
    old, new = [ca.issue("a"), ca.issue("b")], [new_ca.issue("a"), new_ca.issue("b")]
    async with worker(old[0].certs) as one, worker(old[1].certs) as other:

        async def all_is_well() -> None:
            for here, there in [(one, other), (other, one)]:
                for client in here.container._pool.clients:
                    await client.close()
                assert await (await here.container.connect(there.addr)).echo(1) == 1

        for steps in (
            [device.trusting(ca, new_ca) for device in old],  # both are trusted
            [device.trusting(ca, new_ca) for device in new],  # new certificates
            [device.certs for device in new],  # only the new one is trusted
        ):
            for agent, certs in zip((one, other), steps, strict=True):
                await agent.container.reload_tls(certs)
                await all_is_well()
    # Who has missed it is out.
    await refused(new[0].certs, old[1].trusting(ca, new_ca), "UNKNOWN_CA")


async def test_rotation_needs_the_overlap(folder, ca):
    new_ca = Authority(folder, "newer-ca")
    await refused(new_ca.issue().certs, ca.issue().certs, "self-signed certificate in cert")
    both = [ca.issue().trusting(ca, new_ca), new_ca.issue().trusting(ca, new_ca)]
    await talk_both_ways(*both)


async def test_contexts_for_the_wrong_sides_are_refused(certs):
    contexts = aiomas.make_ssl_server_context(*certs), aiomas.make_ssl_client_context(*certs)
    async with worker(certs) as one, worker(certs) as other:
        with pytest.raises(ValueError, match=r"first context .* by clients only"):
            await one.container.reload_tls((contexts[1], contexts[1]))
        with pytest.raises(ValueError, match=r"second context .* by servers only"):
            await one.container.reload_tls((contexts[0], contexts[0]))
        await other.container.ping(one.container.base_url)
        await one.container.reload_tls(contexts)
        await one.container.ping(other.container.base_url)
