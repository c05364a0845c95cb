"""The two SSL contexts shake hands for real, over memory; and with nobody they should not."""

from __future__ import annotations

import copy
import pickle
import re
import ssl
from collections.abc import Callable
from pathlib import Path

import pytest
import trustme
from cryptography.hazmat.primitives import serialization

from aiomas.tls import SSLCerts, make_ssl_client_context, make_ssl_server_context

Issue = Callable[..., SSLCerts]


@pytest.fixture(scope="module")
def issue(tmp_path_factory: pytest.TempPathFactory) -> Issue:
    """Write the files of a certificate, and of an authority that peers are to be trusted by."""
    folder = tmp_path_factory.mktemp("certificates")

    def write(name: str, *hosts: str, by: trustme.CA, trusts: trustme.CA | None = None) -> SSLCerts:
        leaf = by.issue_cert(*hosts)
        files = SSLCerts(*(folder / f"{name}{suffix}" for suffix in (".ca", ".pem", ".key")))
        (trusts or by).cert_pem.write_to_path(files.cafile)
        leaf.cert_chain_pems[0].write_to_path(files.certfile)
        leaf.private_key_pem.write_to_path(files.keyfile)
        return files

    return write


@pytest.fixture(scope="module")
def ca() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def server_certs(issue: Issue, ca: trustme.CA) -> SSLCerts:
    return issue("server", "localhost", "127.0.0.1", by=ca)


@pytest.fixture(scope="module")
def client_certs(issue: Issue, ca: trustme.CA) -> SSLCerts:
    return issue("client", "client.example", by=ca)


@pytest.fixture(scope="module")
def server_context(server_certs: SSLCerts) -> ssl.SSLContext:
    return make_ssl_server_context(*server_certs)


@pytest.fixture(scope="module")
def client_context(client_certs: SSLCerts) -> ssl.SSLContext:
    return make_ssl_client_context(*client_certs)


def shake_hands(
    server: ssl.SSLContext, client: ssl.SSLContext, hostname: str = "localhost"
) -> tuple[ssl.SSLObject, ssl.SSLObject]:
    """Join both ends and let each work until neither has anything to send."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    server_end = server.wrap_bio(to_server, to_client, server_side=True)
    client_end = client.wrap_bio(to_client, to_server, server_hostname=hostname)
    ends = [client_end, server_end]
    for _ in range(10):
        for end in list(ends):
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
            ends.remove(end)
        if not ends:
            return server_end, client_end
    pytest.fail("the handshake did not end")


def test_both_ends_shake_hands_and_understand_each_other(server_context, client_context):
    server, client = shake_hands(server_context, client_context)

    client.write(b"ohai")
    assert server.read() == b"ohai"
    server.write(b"cya")
    assert client.read() == b"cya"


def test_each_end_knows_who_the_other_is(server_context, client_context):
    server, client = shake_hands(server_context, client_context)

    assert "client.example" in str(server.getpeercert())
    assert "localhost" in str(client.getpeercert())


def test_the_newest_version_of_tls_is_spoken(server_context, client_context):
    server, _ = shake_hands(server_context, client_context)

    assert server.version() == "TLSv1.3"
    assert server.compression() is None


def test_a_peer_that_speaks_no_more_than_tls_1_2_gets_forward_secrecy_and_gcm(
    server_context, client_certs
):
    old = make_ssl_client_context(*client_certs)
    old.maximum_version = ssl.TLSVersion.TLSv1_2

    server, _ = shake_hands(server_context, old)

    assert server.version() == "TLSv1.2"
    cipher = server.cipher()
    assert cipher is not None
    assert re.fullmatch(r"ECDHE-\w+-AES\d+-GCM-SHA\d+", cipher[0])


@pytest.mark.parametrize("make", [make_ssl_server_context, make_ssl_client_context])
def test_nothing_older_or_weaker_is_offered(make, server_certs):
    context = make(*server_certs)

    assert context.minimum_version == ssl.TLSVersion.TLSv1_2
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.options & ssl.OP_NO_COMPRESSION
    assert context.options & ssl.OP_NO_TICKET
    ciphers = [c["name"] for c in context.get_ciphers() if c["protocol"] == "TLSv1.2"]
    assert ciphers
    assert all(name.startswith("ECDHE-") and "GCM" in name for name in ciphers)


def test_no_session_is_resumed_without_a_certificate(server_context, client_context):
    assert server_context.num_tickets == 0

    _, client = shake_hands(server_context, client_context)
    assert client.session is not None
    assert not client.session.has_ticket


def test_only_the_given_authority_is_trusted(client_context):
    assert len(client_context.get_ca_certs()) == 1


@pytest.mark.parametrize("hostname", ["example.com", "127.0.0.2"])
def test_a_client_refuses_a_server_of_another_name(server_context, client_context, hostname):
    with pytest.raises(ssl.SSLCertVerificationError, match="match"):
        shake_hands(server_context, client_context, hostname)


def test_an_address_is_checked_like_a_name(server_context, client_context):
    shake_hands(server_context, client_context, "127.0.0.1")


def test_a_client_refuses_a_server_of_another_authority(issue, ca, client_context):
    foreign = issue("foreign-server", "localhost", by=trustme.CA(), trusts=ca)

    with pytest.raises(ssl.SSLCertVerificationError, match="unable to get local issuer"):
        shake_hands(make_ssl_server_context(*foreign), client_context)


def test_a_server_refuses_a_client_of_another_authority(issue, ca, server_context):
    foreign = issue("foreign-client", "client.example", by=trustme.CA(), trusts=ca)

    with pytest.raises(ssl.SSLCertVerificationError, match="unable to get local issuer"):
        shake_hands(server_context, make_ssl_client_context(*foreign))


def test_a_server_refuses_a_client_without_a_certificate(server_context, client_certs):
    anonymous = ssl.create_default_context(cafile=client_certs.cafile)

    with pytest.raises(ssl.SSLError, match=r"(?i)peer did not return a certificate"):
        shake_hands(server_context, anonymous)


@pytest.mark.parametrize("missing", ["cafile", "certfile", "keyfile"])
@pytest.mark.parametrize("make", [make_ssl_server_context, make_ssl_client_context])
def test_a_missing_file_is_reported_at_once(make, missing, server_certs, tmp_path):
    with pytest.raises(FileNotFoundError):
        make(*server_certs._replace(**{missing: tmp_path / "nothing"}))


def test_a_file_without_a_certificate_is_reported_at_once(server_certs, tmp_path):
    empty = tmp_path / "empty.pem"
    empty.write_text("")

    with pytest.raises(ssl.SSLError):
        make_ssl_server_context(*server_certs._replace(cafile=empty))


def test_a_key_that_does_not_belong_to_the_certificate_is_reported_at_once(
    server_certs, client_certs
):
    with pytest.raises(ssl.SSLError, match=r"(?i)mismatch"):
        make_ssl_client_context(*server_certs._replace(keyfile=client_certs.keyfile))


def test_file_names_may_be_strings_or_paths(server_certs):
    make_ssl_server_context(*map(str, server_certs))
    make_ssl_server_context(*map(Path, server_certs))


def test_certificates_are_a_named_tuple():
    assert SSLCerts("ca", "cert", "key") == ("ca", "cert", "key")
    assert SSLCerts._fields == ("cafile", "certfile", "keyfile")
    cafile, certfile, keyfile = SSLCerts("ca", "cert", "key")
    assert (cafile, certfile, keyfile) == ("ca", "cert", "key")
    assert SSLCerts("ca", "cert", "key").crlfile is None


def test_certificates_with_a_revocation_list_are_a_tuple_of_four():
    certs = SSLCerts("ca", "cert", "key", crlfile="crl")
    assert tuple(certs) == ("ca", "cert", "key", "crl")
    assert (certs.keyfile, certs.crlfile) == ("key", "crl")
    assert repr(certs).endswith("keyfile='key', crlfile='crl')")
    assert certs == SSLCerts("ca", "cert", "key")._replace(crlfile="crl")
    assert certs._replace(crlfile=None) == SSLCerts("ca", "cert", "key")
    assert certs._replace(cafile="other").crlfile == "crl"
    for same in (pickle.loads(pickle.dumps(certs)), copy.deepcopy(certs), SSLCerts._make(certs)):
        assert same == certs
        assert isinstance(same, SSLCerts)
    with pytest.raises(ValueError, match="too many values"):  # rather than to forget the list
        _, _, _ = certs
    with pytest.raises(TypeError):
        SSLCerts("ca", "cert")  # type: ignore[call-arg]


def test_an_encrypted_key_is_an_error_and_no_question(server_certs, tmp_path):
    plain = serialization.load_pem_private_key(Path(server_certs.keyfile).read_bytes(), None)
    encrypted = tmp_path / "device.key"
    encrypted.write_bytes(
        plain.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        )
    )
    with pytest.raises(ssl.SSLError, match=r"is encrypted.*device\.key"):
        make_ssl_server_context(*server_certs._replace(keyfile=encrypted))


@pytest.mark.parametrize("make", [make_ssl_server_context, make_ssl_client_context])
def test_an_error_says_which_file_it_is_about(make, tmp_path):
    ca = trustme.CA()
    files = {name: tmp_path / name for name in ("ca.pem", "device.pem", "device.key")}
    ca.cert_pem.write_to_path(files["ca.pem"])
    leaf = ca.issue_cert("localhost")
    leaf.cert_chain_pems[0].write_to_path(files["device.pem"])
    ca.issue_cert("localhost").private_key_pem.write_to_path(files["device.key"])
    with pytest.raises(ssl.SSLError, match=r"device\.pem.*device\.key"):  # they do not match
        make(*files.values())
    files["ca.pem"].write_text("no certificate")
    with pytest.raises(ssl.SSLError, match=r"ca\.pem"):
        make(*files.values())
    for name, file in files.items():
        file.rename(tmp_path / "elsewhere")
        with pytest.raises(FileNotFoundError, match=name):
            make(*files.values())
        (tmp_path / "elsewhere").rename(file)


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_1, "1.3", None])
@pytest.mark.parametrize("make", [make_ssl_server_context, make_ssl_client_context])
def test_another_minimum_is_an_error(server_certs, make, version):
    with pytest.raises(ValueError, match="minimum_version must be TLSv1_2 or TLSv1_3"):
        make(*server_certs, minimum_version=version)
