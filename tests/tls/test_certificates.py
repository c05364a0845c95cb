"""Which certificates are good enough, in real handshakes, in the role of either side."""

from __future__ import annotations

import ipaddress
import ssl

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

import aiomas
from aiomas import SSLCerts
from tests.tls.authority import DAY, Authority
from tests.tls.world import refused, talk, talk_both_ways

SERVER_ONLY = [ExtendedKeyUsageOID.SERVER_AUTH]
CLIENT_ONLY = [ExtendedKeyUsageOID.CLIENT_AUTH]


def address(text: str) -> x509.IPAddress:
    return x509.IPAddress(ipaddress.ip_address(text))


def contexts(certs: SSLCerts, *, strict: bool) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    return (
        aiomas.make_ssl_server_context(*certs, strict=strict),
        aiomas.make_ssl_client_context(*certs, strict=strict),
    )


@pytest.mark.parametrize(
    ("host", "san"),
    [
        ("localhost", x509.DNSName("localhost")),
        ("127.0.0.1", address("127.0.0.1")),
        ("::1", address("::1")),
    ],
    ids=["name", "IPv4", "IPv6"],
)
async def test_valid(ca, host, san):
    one, other = (ca.issue(name, sans=[san]).certs for name in ("one", "other"))
    await talk_both_ways(one, other, host)


async def test_no_certificate(ca, certs, refusals):
    anonymous = ssl.create_default_context(cafile=certs.cafile)
    server = aiomas.make_ssl_server_context(*certs)
    await refusals.as_client(
        (server, anonymous), "PEER_DID_NOT_RETURN_A_CERTIFICATE", "CERTIFICATE_REQUIRED"
    )


async def test_wrong_authority(ca, other_ca, refusals):
    bad = other_ca.issue().trusting(ca)
    await refusals.as_server(bad, "unable to get local issuer certificate")
    await refusals.as_client(bad, "unable to get local issuer certificate", "UNKNOWN_CA")


async def test_same_named_authority_with_another_key(folder, ca, refusals):
    double = Authority(folder, "double", name="ca")
    bad = double.issue().trusting(ca)
    await refusals.as_server(bad, "unable to get local issuer certificate")
    await refusals.as_client(bad, "unable to get local issuer certificate", "UNKNOWN_CA")


async def test_same_named_authority_with_another_key_that_says_it_is_the_right_one(
    folder, ca, refusals
):
    bad = ca.issue(forged_with=Authority(folder, "forger").key).certs
    await refusals.as_server(bad, "certificate signature failure")
    await refusals.as_client(bad, "certificate signature failure", "DECRYPT_ERROR")


async def test_expired(ca, refusals):
    bad = ca.issue(validity=(-2 * DAY, -DAY)).certs
    await refusals.as_server(bad, "certificate has expired")
    await refusals.as_client(bad, "certificate has expired", "CERTIFICATE_EXPIRED")


async def test_not_yet_valid(ca, refusals):
    bad = ca.issue(validity=(DAY, 2 * DAY)).certs
    await refusals.as_server(bad, "certificate is not yet valid")
    await refusals.as_client(bad, "certificate is not yet valid", "BAD_CERTIFICATE")


async def test_wrong_host(ca, refusals):
    bad = ca.issue(sans=[x509.DNSName("elsewhere.example"), address("192.0.2.1")]).certs
    await refusals.as_server(bad, "Hostname mismatch")
    await refusals.as_server(bad, "IP address mismatch", "127.0.0.1")
    await talk(refusals.good, bad)  # a client may come from anywhere


async def test_common_name_only(ca, refusals):
    bad = ca.issue("localhost", sans=None).certs
    error = await refusals.as_server(bad, "Hostname mismatch")
    assert "strict=False" in str(error)
    # It is good for those who ask for it.
    await talk(bad, contexts(refusals.good, strict=False))


async def test_server_only_as_a_client(ca, refusals):
    bad = ca.issue(usages=SERVER_ONLY).certs
    await refusals.as_client(bad, "unsuitable certificate purpose", "UNSUPPORTED_CERTIFICATE")
    await talk(bad, refusals.good)


async def test_client_only_as_a_server(ca, refusals):
    bad = ca.issue(usages=CLIENT_ONLY).certs
    await refusals.as_server(bad, "unsuitable certificate purpose")
    await talk(refusals.good, bad)


async def test_signed_by_a_device(ca, refusals):
    bad = ca.issue(signer=ca.issue("device-that-signs")).trusting(ca)
    await refusals.as_server(bad, "invalid CA certificate")
    await refusals.as_client(bad, "invalid CA certificate", "UNKNOWN_CA")


async def test_missing_authority_key_identifier(ca, refusals):
    bad = ca.issue(aki=False).certs
    error = await refusals.as_server(bad, "Missing Authority Key Identifier")
    assert "strict=False" in str(error)
    await refusals.as_client(bad, "Missing Authority Key Identifier", "CERTIFICATE_UNKNOWN")
    loose = contexts(refusals.good, strict=False)
    await talk_both_ways(contexts(bad, strict=False), loose)


@pytest.mark.parametrize(
    ("constraints", "violation"),
    [
        (x509.NameConstraints([x509.DNSName("example.org")], None), "permitted subtree violation"),
        (x509.NameConstraints(None, [x509.DNSName("localhost")]), "excluded subtree violation"),
    ],
    ids=["permitted", "excluded"],
)
async def test_name_constraint_violation(folder, constraints, violation):
    bounded = Authority(folder, "bounded", constraints=constraints)
    good = bounded.issue("good", sans=[x509.DNSName("a.example.org")]).certs
    bad = bounded.issue("bad", sans=[x509.DNSName("localhost")]).certs
    await refused(bad, good, violation)
    # The server's own name is not allowed either, so that the client looks away.
    loose = aiomas.make_ssl_client_context(*bad)
    loose.check_hostname, loose.verify_mode = False, ssl.CERT_NONE
    await refused(good, (aiomas.make_ssl_server_context(*bad), loose), "ALERT")


async def test_certificates_of_another_maker(ca, tmp_path):
    trustme = pytest.importorskip("trustme")
    authority = trustme.CA()
    files = [tmp_path / name for name in ("ca.pem", "device.pem", "device.key")]
    leaf = authority.issue_cert("localhost")
    authority.cert_pem.write_to_path(files[0])
    leaf.cert_chain_pems[0].write_to_path(files[1])
    leaf.private_key_pem.write_to_path(files[2])
    await talk(SSLCerts(*files), SSLCerts(*files))
