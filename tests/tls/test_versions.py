"""Versions of TLS and suites: the new ones, one old one, and nothing weaker."""

from __future__ import annotations

import re
import ssl
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

import aiomas
from tests.tls.world import refused, talk, talk_both_ways, worker

V1, V1_1, V1_2, V1_3 = (
    ssl.TLSVersion.TLSv1,
    ssl.TLSVersion.TLSv1_1,
    ssl.TLSVersion.TLSv1_2,
    ssl.TLSVersion.TLSv1_3,
)

# Python says so of what the peers of these tests are made to do.
pytestmark = pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")


@pytest.fixture(scope="session")
def rsa_certs(ca):
    """Certificates with which all key exchanges are possible."""
    return ca.issue("rsa", key=rsa.generate_private_key(65537, 2048)).certs


def pair(certs, version: Any = None, ciphers: str | None = None, **options: Any):
    """Make both contexts, for a certain version and suite only."""
    made = (
        aiomas.make_ssl_server_context(*certs, **options),
        aiomas.make_ssl_client_context(*certs, **options),
    )
    for context in made:
        if ciphers is not None:
            context.set_ciphers(ciphers)
        if version is not None:
            context.minimum_version = context.maximum_version = version
    return made


async def connected(server, client) -> tuple[str, str]:
    """Return version and suite of a connection."""
    async with worker(server) as there, worker(client) as here:
        proxy = await here.container.connect(there.addr)
        assert await proxy.echo(1) == 1
        (connection,) = here.container._pool.clients
        ssl_object = connection.channel.get_extra_info("ssl_object")
        return ssl_object.version(), ssl_object.cipher()[0]


async def test_the_newest_version_is_preferred(certs):
    assert (await connected(certs, certs))[0] == "TLSv1.3"


@pytest.mark.parametrize("kind", ["certs", "rsa_certs"])
async def test_1_2_with_forward_secrecy_and_gcm_is_accepted(request, kind):
    certs = request.getfixturevalue(kind)
    for server, client in [(certs, pair(certs, V1_2)), (pair(certs, V1_2), certs)]:
        version, suite = await connected(server, client)
        assert version == "TLSv1.2"
        assert re.fullmatch(r"ECDHE-(ECDSA|RSA)-AES\d+-GCM-SHA\d+", suite)


@pytest.mark.parametrize("version", [V1, V1_1], ids=["1.0", "1.1"])
async def test_old_version_as_a_client(certs, refusals, version):
    old = pair(certs, version, "ALL:@SECLEVEL=0")
    await refusals.as_client(old, "UNSUPPORTED_PROTOCOL", "PROTOCOL_VERSION")
    await talk(old, old)  # without us it works


@pytest.mark.parametrize("version", [V1, V1_1], ids=["1.0", "1.1"])
async def test_old_version_as_a_server(certs, refusals, version):
    await refusals.as_server(pair(certs, version, "ALL:@SECLEVEL=0"), "PROTOCOL_VERSION")


async def test_1_2_when_1_3_is_demanded(certs, caplog):
    new, old = pair(certs, minimum_version=V1_3), pair(certs, V1_2)
    await refused(new, old, "PROTOCOL_VERSION")
    assert "UNSUPPORTED_PROTOCOL" in caplog.text
    await refused(old, new, "PROTOCOL_VERSION")
    await talk_both_ways(new, certs)


@pytest.mark.parametrize(
    "suite",
    ["AES128-GCM-SHA256", "ECDHE-RSA-AES256-SHA384", "AES256-SHA", "DHE-RSA-AES128-GCM-SHA256"],
    ids=["RSA key exchange", "CBC", "both", "finite fields"],
)
async def test_weak_suite(rsa_certs, refusals, suite):
    weak = pair(rsa_certs, V1_2, suite)
    refusals.good = rsa_certs
    await refusals.as_client(weak, "NO_SHARED_CIPHER", "HANDSHAKE_FAILURE")
    await refusals.as_server(weak, "HANDSHAKE_FAILURE")
