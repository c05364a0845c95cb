"""The certificates follow the profile, and every strict verifier that there is accepts them."""

from __future__ import annotations

import dataclasses
import datetime as dt
import ipaddress
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID as Purpose
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError

from pki import authority as pki

NOW = dt.datetime.now(dt.UTC)
DAY = dt.timedelta(days=1)
MINUTES = dt.timedelta(minutes=5)
SECOND = dt.timedelta(seconds=1)
DNS, IP4, IP6 = "shop.plant.example", "10.0.0.3", "fd00::3"
HOSTS = [DNS, IP4, IP6]


@dataclasses.dataclass(frozen=True)
class Deployment:
    """A CA and a device, as files too."""

    authority: pki.Authority
    ca: Path
    certificate: Path
    key: Path
    crl: Path

    @property
    def root(self) -> x509.Certificate:
        return x509.load_pem_x509_certificate(self.ca.read_bytes())

    @property
    def device(self) -> x509.Certificate:
        return x509.load_pem_x509_certificate(self.certificate.read_bytes())


def deploy(folder: Path, ca_type: pki.KeyType, device_type: pki.KeyType, **kwargs) -> Deployment:
    # A name with a dot: pkilint wants domain names as hosts of URIs.
    root = pki.make_root("plant.example", key_type=ca_type, **kwargs)
    authority = pki.load_authority(root.certificate, root.key)
    device = pki.issue(authority, "shop", pki.parse_names(HOSTS), key_type=device_type)
    crl = pki.make_crl(
        authority,
        [
            pki.Revocation("1234567890abcdef", NOW),
            pki.Revocation("2234567890abcdef", NOW, "keyCompromise"),
        ],
        number=1,
    )
    made = Deployment(
        authority, *(folder / name for name in ("ca.pem", "device.pem", "device.key", "crl.pem"))
    )
    made.ca.write_bytes(root.certificate)
    made.certificate.write_bytes(device.certificate)
    made.key.write_bytes(device.key)
    made.crl.write_bytes(crl)
    return made


KINDS: list[tuple[pki.KeyType, pki.KeyType]] = [
    ("ec-p384", "ec-p256"),
    ("ec-p256", "ec-p384"),
    ("rsa-3072", "rsa-3072"),
    ("rsa-4096", "ec-p256"),
    ("ec-p384", "ed25519"),
    ("ed25519", "ed25519"),
]


@pytest.fixture(scope="module", params=KINDS, ids="-".join)
def any_kind(request, tmp_path_factory) -> Deployment:
    return deploy(tmp_path_factory.mktemp("pki"), *request.param)


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Deployment:
    return deploy(tmp_path_factory.mktemp("pki"), "ec-p384", "ec-p256")


@pytest.fixture(scope="module")
def constrained(tmp_path_factory) -> Deployment:
    permitted = {"permit_dns": ["plant.example"], "permit_ips": ["10.0.0.0/8", "fd00::/8"]}
    return deploy(tmp_path_factory.mktemp("pki"), "ec-p384", "ec-p256", **permitted)


def extensions(cert: x509.Certificate) -> dict[str, tuple[bool, x509.ExtensionType]]:
    return {type(item.value).__name__: (item.critical, item.value) for item in cert.extensions}


# --- the table ------------------------------------------------------------------------------------


def usage(*names: str) -> x509.KeyUsage:
    every = """
        digital_signature content_commitment key_encipherment data_encipherment key_agreement
        key_cert_sign crl_sign encipher_only decipher_only
        """
    return x509.KeyUsage(**{name: name in names for name in every.split()})


def test_root_has_exactly_these_extensions(made):
    ski = x509.SubjectKeyIdentifier.from_public_key(made.root.public_key())

    assert extensions(made.root) == {
        "BasicConstraints": (True, x509.BasicConstraints(ca=True, path_length=0)),
        "KeyUsage": (True, usage("key_cert_sign", "crl_sign")),
        "SubjectKeyIdentifier": (False, ski),
    }


def test_root_with_permitted_names_has_them_as_a_critical_extension(constrained):
    permitted = [
        x509.DNSName("plant.example"),
        x509.IPAddress(ipaddress.ip_network("10.0.0.0/8")),
        x509.IPAddress(ipaddress.ip_network("fd00::/8")),
    ]

    assert extensions(constrained.root)["NameConstraints"] == (
        True,
        x509.NameConstraints(permitted, None),
    )


def test_device_has_exactly_these_extensions(made):
    ski = x509.SubjectKeyIdentifier.from_public_key(made.device.public_key())
    aki = x509.AuthorityKeyIdentifier.from_issuer_public_key(made.root.public_key())
    names = [
        x509.DNSName(DNS),
        x509.IPAddress(ipaddress.ip_address(IP4)),
        x509.IPAddress(ipaddress.ip_address(IP6)),
        x509.UniformResourceIdentifier("spiffe://plant.example/shop"),
    ]

    assert extensions(made.device) == {
        "BasicConstraints": (True, x509.BasicConstraints(ca=False, path_length=None)),
        "KeyUsage": (True, usage("digital_signature")),
        "ExtendedKeyUsage": (
            False,
            x509.ExtendedKeyUsage([Purpose.SERVER_AUTH, Purpose.CLIENT_AUTH]),
        ),
        "SubjectKeyIdentifier": (False, ski),
        "AuthorityKeyIdentifier": (False, aki),
        "SubjectAlternativeName": (False, x509.SubjectAlternativeName(names)),
    }


def test_keys_are_p384_for_the_ca_and_p256_for_devices_by_default():
    root = pki.make_root("plant")
    device = pki.issue(
        pki.load_authority(root.certificate, root.key), "shop", pki.parse_names([DNS])
    )

    assert pki.inspect(root.certificate).key == "ec-p384"
    assert pki.inspect(device.certificate).key == "ec-p256"


@pytest.mark.parametrize("key_type", pki.KEY_TYPES)
def test_hash_of_signatures_fits_the_key_of_the_ca(key_type, tmp_path):
    made = deploy(tmp_path, key_type, "ec-p256")

    expected = {"ec-p384": hashes.SHA384, "ed25519": type(None)}.get(key_type, hashes.SHA256)
    assert type(made.root.signature_hash_algorithm) is expected
    assert type(made.device.signature_hash_algorithm) is expected


def test_serial_numbers_are_of_159_random_bits(made):
    names = pki.parse_names([DNS])
    key = pki.public_key(pki.make_key())

    numbers = [
        int(pki.inspect(pki.certify(made.authority, "shop", names, key)).serial, 16)
        for _ in range(64)
    ]

    assert len(set(numbers)) == 64
    # Of so many, each of the highest bits is set in some and not in others: wrong once in 2**60.
    assert max(numbers).bit_length() == 159
    for bit in (0, 80, 157, 158):
        assert {number >> bit & 1 for number in numbers} == {0, 1}


def test_subjects_are_organisation_and_common_name(made):
    assert made.device.subject.rfc4514_string() == "CN=shop,O=plant.example"
    assert made.device.issuer == made.root.subject
    assert made.root.subject.rfc4514_string().endswith(",O=plant.example")


def test_common_name_of_a_ca_is_unique_per_generation():
    subjects = {pki.inspect(pki.make_root("plant").certificate).subject for _ in range(4)}

    assert len(subjects) == 4


def test_certificates_begin_five_minutes_ago_and_last_as_long_as_asked(made):
    root = pki.make_root("plant", days=10, now=NOW)
    authority = pki.load_authority(root.certificate, root.key)
    device = pki.issue(authority, "shop", pki.parse_names([DNS]), days=3, now=NOW + DAY)

    begin = NOW.replace(microsecond=0)
    for pem, start, days in (
        (root.certificate, begin - MINUTES, 10),
        (device.certificate, begin + DAY - MINUTES, 3),
    ):
        info = pki.inspect(pem)
        # Both ends belong to the time, hence the second.
        assert (info.not_before, info.not_after) == (start, start + days * DAY - SECOND)


def test_root_is_valid_for_ten_years_and_a_device_for_one_by_default(made):
    for info, days in (
        (pki.inspect(made.ca.read_bytes()), 3650),
        (pki.inspect(made.certificate.read_bytes()), 365),
    ):
        assert info.not_after - info.not_before == days * DAY - SECOND


def test_device_is_never_valid_before_or_past_its_ca():
    root = pki.make_root("plant", days=10, now=NOW)
    authority = pki.load_authority(root.certificate, root.key)

    info = pki.inspect(
        pki.issue(authority, "shop", pki.parse_names([DNS]), now=NOW - MINUTES + SECOND).certificate
    )

    assert info.not_before == authority.info.not_before
    assert info.not_after == authority.info.not_after


def test_our_own_certificates_have_no_deviations(any_kind):
    ca = any_kind.ca.read_bytes()

    findings = (
        *pki.check(any_kind.certificate.read_bytes(), ca, crl=any_kind.crl.read_bytes()),
        *pki.check_ca(ca),
    )

    assert [finding for finding in findings if finding.severity is not pki.Severity.GOOD] == []


# --- OpenSSL --------------------------------------------------------------------------------------


def openssl_verify(made: Deployment, *options: str) -> subprocess.CompletedProcess[str]:
    command = ["openssl", "verify", "-x509_strict", "-CAfile", str(made.ca), *options]
    return subprocess.run(
        [*command, str(made.certificate)], capture_output=True, text=True, check=False, timeout=30
    )


@pytest.mark.parametrize("purpose", ["sslserver", "sslclient"])
def test_openssl_accepts_in_strict_mode(any_kind, purpose):
    result = openssl_verify(any_kind, "-purpose", purpose)

    assert (result.returncode, result.stderr) == (0, "")


@pytest.mark.parametrize(
    "option", [("-verify_hostname", DNS), ("-verify_ip", IP4), ("-verify_ip", IP6)], ids=str
)
def test_openssl_accepts_each_name(made, option):
    assert openssl_verify(made, *option).returncode == 0


def test_openssl_accepts_with_the_revocation_list(any_kind):
    result = openssl_verify(any_kind, "-crl_check", "-CRLfile", str(any_kind.crl))

    assert (result.returncode, result.stderr) == (0, "")


def test_openssl_sees_a_revocation(made, tmp_path):
    serial = pki.inspect(made.certificate.read_bytes()).serial
    crl = tmp_path / "crl.pem"
    crl.write_bytes(pki.make_crl(made.authority, [pki.Revocation(serial, NOW)], number=2))

    result = openssl_verify(made, "-crl_check", "-CRLfile", str(crl))

    assert result.returncode == 2
    assert "certificate revoked" in result.stderr


def test_openssl_accepts_names_that_a_constrained_ca_may_sign(constrained):
    assert openssl_verify(constrained).returncode == 0


# --- Python ---------------------------------------------------------------------------------------


def shake_hands(host: str, server: ssl.SSLContext, client: ssl.SSLContext) -> dict[str, Any]:
    """Return what the server knows of the client; raises what either side raises."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [
        client.wrap_bio(to_client, to_server, server_hostname=host),
        server.wrap_bio(to_server, to_client, server_side=True),
    ]
    waiting = list(ends)
    # A handshake of TLS 1.3 has three flights.
    for _ in range(4):
        for end in list(waiting):
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
            waiting.remove(end)
    assert not waiting
    return ends[1].getpeercert() or {}


def contexts(made: Deployment) -> Iterator[ssl.SSLContext]:
    """Python's default contexts, of both sides: strict since 3.13, made so before."""
    for purpose in (ssl.Purpose.CLIENT_AUTH, ssl.Purpose.SERVER_AUTH):
        context = ssl.create_default_context(purpose, cafile=str(made.ca))
        if sys.version_info >= (3, 13) and purpose is ssl.Purpose.SERVER_AUTH:
            assert context.verify_flags & ssl.VERIFY_X509_STRICT
        context.verify_flags |= ssl.VERIFY_X509_STRICT
        context.verify_mode = ssl.CERT_REQUIRED
        context.hostname_checks_common_name = False
        context.load_cert_chain(made.certificate, made.key)
        yield context


@pytest.mark.parametrize("host", HOSTS)
def test_python_shakes_hands_with_strict_contexts(any_kind, host):
    peer = shake_hands(host, *contexts(any_kind))

    assert ("URI", "spiffe://plant.example/shop") in peer["subjectAltName"]


def test_python_refuses_another_host(made):
    with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
        shake_hands("other.example", *contexts(made))


@pytest.mark.usefixtures("slow_keys")
def test_python_loads_an_encrypted_key(made, tmp_path):
    device = pki.issue(made.authority, "shop", pki.parse_names([DNS]), passphrase="a secret")
    key, certificate = tmp_path / "device.key", tmp_path / "device.pem"
    key.write_bytes(device.key)
    certificate.write_bytes(device.certificate)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)

    context.load_cert_chain(certificate, key, "a secret")

    with pytest.raises(ssl.SSLError):
        context.load_cert_chain(certificate, key, "another")


# --- cryptography ---------------------------------------------------------------------------------


ED25519 = "this verifier follows the public Web, which knows no CA with such a key"


@pytest.mark.parametrize(
    "subject",
    [
        x509.DNSName(DNS),
        x509.IPAddress(ipaddress.ip_address(IP4)),
        x509.IPAddress(ipaddress.ip_address(IP6)),
    ],
    ids=str,
)
def test_cryptography_accepts_for_a_server(any_kind, subject):
    if any_kind.authority.info.key == "ed25519":
        pytest.skip(ED25519)
    verifier = PolicyBuilder().store(Store([any_kind.root])).build_server_verifier(subject)

    assert verifier.verify(any_kind.device, []) == [any_kind.device, any_kind.root]


def test_cryptography_accepts_for_a_client(any_kind):
    if any_kind.authority.info.key == "ed25519":
        pytest.skip(ED25519)
    verifier = PolicyBuilder().store(Store([any_kind.root])).build_client_verifier()

    subjects = verifier.verify(any_kind.device, []).subjects

    assert x509.UniformResourceIdentifier("spiffe://plant.example/shop") in (subjects or ())


# --- pkilint --------------------------------------------------------------------------------------


def lints(linter, document) -> list[str]:
    """Return what the linter has to say, apart from remarks (how a key identifier was computed)."""
    from pkilint.validation import ValidationFindingSeverity

    return [
        f"{result.node.path}: {description.finding.code} {description.message}"
        for result in linter.validate(document.root)
        for description in result.finding_descriptions
        if description.finding.severity is not ValidationFindingSeverity.INFO
    ]


@pytest.fixture(scope="module")
def certificate_linter():
    """The rules of RFC 5280. (Those of the CA/Browser Forum are for CAs of the public Web.)"""
    from pkilint.pkix import certificate, extension, name

    return certificate.create_pkix_certificate_validator_container(
        certificate.create_decoding_validators(
            name.ATTRIBUTE_TYPE_MAPPINGS, extension.EXTENSION_MAPPINGS
        ),
        [
            certificate.create_issuer_validator_container([]),
            certificate.create_validity_validator_container(),
            certificate.create_subject_validator_container([]),
            certificate.create_extensions_validator_container([]),
            certificate.create_spki_validator_container([]),
        ],
    )


@pytest.fixture(scope="module")
def crl_linter():
    from pkilint import pkix
    from pkilint.pkix import crl, extension, name

    return crl.create_pkix_crl_validator_container(
        [
            pkix.create_attribute_decoder(name.ATTRIBUTE_TYPE_MAPPINGS),
            pkix.create_extension_decoder(extension.EXTENSION_MAPPINGS),
        ],
        [
            crl.create_issuer_validator_container([]),
            crl.create_validity_validator_container([]),
            crl.create_extensions_validator_container([]),
        ],
    )


def linted(path: Path, linter) -> list[str]:
    from pkilint import loader

    return lints(
        linter, loader.RFC5280CertificateDocumentLoader().load_pem_document(path.read_text())
    )


def test_pkilint_has_nothing_to_say_of_a_root(any_kind, certificate_linter):
    assert linted(any_kind.ca, certificate_linter) == []


def test_pkilint_has_nothing_to_say_of_a_constrained_root(constrained, certificate_linter):
    assert linted(constrained.ca, certificate_linter) == []


def test_pkilint_minds_only_the_scheme_of_the_identity(any_kind, certificate_linter):
    # It knows http, ftp and a few others. With one of these, see the next test, it says nothing.
    (finding,) = linted(any_kind.certificate, certificate_linter)

    assert finding.endswith('Invalid URI syntax: "spiffe://plant.example/shop"')


def test_pkilint_has_nothing_to_say_of_a_device(any_kind, certificate_linter, tmp_path):
    names = pki.parse_names(HOSTS, uris=["https://plant.example/shop"])
    key_type = any_kind.authority.info.key
    path = tmp_path / "device.pem"
    path.write_bytes(pki.issue(any_kind.authority, "shop", names, key_type=key_type).certificate)

    assert linted(path, certificate_linter) == []


def test_pkilint_has_nothing_to_say_of_a_revocation_list(any_kind, crl_linter):
    from pkilint import loader

    text = any_kind.crl.read_text()
    document = loader.RFC5280CertificateListDocumentLoader().load_pem_document(text)

    assert lints(crl_linter, document) == []


def test_pkilint_would_say_it(made, certificate_linter, tmp_path):
    bad = tmp_path / "bad.pem"
    key = ec.generate_private_key(ec.SECP256R1())
    cert = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([]))
        .issuer_name(made.root.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(NOW)
        .not_valid_after(NOW + DAY)
        .sign(key, hashes.SHA256())
    )
    bad.write_bytes(cert.public_bytes(Encoding.PEM))

    assert linted(bad, certificate_linter) != []


# --- name constraints, with a CA that signs what ours refuses to ----------------------------------


@pytest.fixture(scope="module", params=["dns", "ip4", "ip6", "suffix", "common name"])
def outside(request, constrained, tmp_path_factory) -> Deployment:
    """A device of the constrained CA with a name that it may not sign, made behind our back."""
    from pki import _keys, _pem, _profile

    common_name, text = {
        "dns": ("shop", "shop.other.example"),
        "ip4": ("shop", "192.0.2.3"),
        "ip6": ("shop", "2001:db8::3"),
        "suffix": ("shop", "shop.notplant.example"),
        "common name": ("shop.other.example", "10.0.0.3"),
    }[request.param]
    names = pki.parse_names([text], uris=["spiffe://plant.example/shop"])
    with pytest.raises(pki.PkiError, match="outside of what the CA is permitted to sign"):
        pki.issue(constrained.authority, common_name, names)
    key = _keys.generate("ec-p256")
    cert = _profile.build_device(
        constrained.authority._cert,
        constrained.authority._key,
        _profile.subject("plant.example", common_name),
        names,
        key.public_key(),
        _profile.validity(NOW, 1),
    )
    folder = tmp_path_factory.mktemp("outside")
    made = dataclasses.replace(
        constrained, certificate=folder / "device.pem", key=folder / "device.key"
    )
    made.certificate.write_bytes(_pem.pem(cert))
    made.key.write_bytes(_keys.serialised(key, None))
    return made


def test_openssl_refuses_names_that_a_ca_may_not_sign(outside):
    assert "permitted subtree violation" in openssl_verify(outside).stderr


def test_python_refuses_names_that_a_ca_may_not_sign(outside):
    server, client = contexts(outside)
    client.check_hostname = False
    client.hostname_checks_common_name = True

    with pytest.raises(ssl.SSLCertVerificationError, match="permitted subtree violation"):
        shake_hands(DNS, server, client)


def test_check_finds_names_that_a_ca_may_not_sign(outside):
    findings = pki.check(outside.certificate.read_bytes(), outside.ca.read_bytes(), within=SECOND)

    broken = [item.text for item in findings if item.severity is pki.Severity.BROKEN]
    assert len(broken) == 1
    assert "outside of what the CA is permitted to sign" in broken[0]


def test_cryptography_refuses_names_that_a_ca_may_not_sign(outside):
    if "CN=shop.other" in outside.device.subject.rfc4514_string():
        pytest.skip("common names count for nothing there, and the others are permitted")
    verifier = PolicyBuilder().store(Store([outside.root])).build_client_verifier()

    with pytest.raises(VerificationError, match="no permitted name constraints matched"):
        verifier.verify(outside.device, [])


def test_no_verifier_minds_a_common_name_without_a_dot(constrained):
    device = pki.issue(constrained.authority, "shop", pki.parse_names([IP4]))

    assert pki.inspect(device.certificate).name == "shop"
    path = constrained.certificate.with_name("plain.pem")
    path.write_bytes(device.certificate)
    assert openssl_verify(dataclasses.replace(constrained, certificate=path)).returncode == 0
