"""What a certificate authority does: keys, roots, requests, certificates, revocation lists."""

from __future__ import annotations

import base64
import dataclasses
import datetime as dt
import json
import re
import subprocess
import traceback

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from pki import authority as pki

NOW = dt.datetime(2026, 3, 1, 12, tzinfo=dt.UTC)
DAY = dt.timedelta(days=1)
SECOND = dt.timedelta(seconds=1)
SECRET = "correct horse"
NAMES = pki.parse_names(["shop.plant.example", "10.0.0.3"])


def load(name: str = "plant", **kwargs) -> pki.Authority:
    root = pki.make_root(name, **{"now": NOW, "key_type": "ec-p256", **kwargs})
    return pki.load_authority(root.certificate, root.key)


@pytest.fixture(scope="module")
def authority() -> pki.Authority:
    return load()


@pytest.fixture(scope="module")
def device(authority) -> pki.KeyAndCertificate:
    return pki.issue(authority, "shop", NAMES, now=NOW)


def openssl(*args: str, stdin: bytes) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        ["openssl", *args], input=stdin, capture_output=True, check=False, timeout=30
    )


# --- keys -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("key_type", pki.KEY_TYPES)
@pytest.mark.usefixtures("slow_keys")
def test_key_of_each_type_can_be_made(key_type):
    key = pki.make_key(key_type)

    assert key.startswith(b"-----BEGIN PRIVATE KEY-----\n")
    assert not pki.is_encrypted(key)
    assert pki.kind_of(key) == "key"
    assert openssl("pkey", "-noout", "-check", stdin=key).returncode == 0


@pytest.mark.parametrize("key_type", pki.KEY_TYPES)
def test_key_of_each_type_can_be_encrypted(key_type):
    key = pki.make_key(key_type, SECRET)

    assert key.startswith(b"-----BEGIN ENCRYPTED PRIVATE KEY-----\n")
    assert pki.is_encrypted(key)
    read = openssl("pkey", "-pubout", "-passin", f"pass:{SECRET}", stdin=key)
    assert read.stdout == pki.public_key(key, SECRET)


@pytest.mark.usefixtures("slow_keys")
def test_passphrase_is_stretched_with_600_000_rounds():
    structure = openssl("asn1parse", stdin=pki.make_key(passphrase=SECRET)).stdout.decode()

    assert re.findall(r"OBJECT +:(.*)", structure) == [
        "PBES2",
        "PBKDF2",
        "hmacWithSHA256",
        "aes-256-cbc",
    ]
    assert [int(number, 16) for number in re.findall(r"INTEGER +:(.*)", structure)] == [600_000]


def test_each_encryption_has_its_own_salt():
    key = pki.make_key()

    encrypted = {pki.encrypt_key(key, None, SECRET) for _ in range(2)}

    assert len(encrypted) == 2
    assert {pki.encrypt_key(one, SECRET, None) for one in encrypted} == {key}


@pytest.mark.parametrize("passphrase", ["x", "Größe 電力 🔑", " blank ", "x" * 1000])
def test_any_passphrase_works(passphrase):
    key = pki.make_key(passphrase=passphrase)

    assert pki.encrypt_key(key, passphrase, None).startswith(b"-----BEGIN PRIVATE KEY-----")


@pytest.mark.parametrize("kind", [["-scrypt"], ["-iter", "600000"], ["-v2", "aes-128-cbc"]])
def test_keys_that_openssl_encrypted_can_be_read(kind):
    key = pki.make_key()
    encrypted = openssl("pkcs8", "-topk8", *kind, "-passout", f"pass:{SECRET}", stdin=key).stdout

    assert pki.public_key(encrypted, SECRET) == pki.public_key(key)


def test_old_formats_of_openssl_can_be_read():
    old = openssl("ecparam", "-name", "prime256v1", "-genkey", stdin=b"").stdout
    encrypted = openssl("ec", "-aes256", "-passout", f"pass:{SECRET}", stdin=old).stdout

    assert old.startswith(b"-----BEGIN EC PARAMETERS-----")
    assert not pki.is_encrypted(old)
    assert pki.is_encrypted(encrypted)
    assert pki.public_key(old) == pki.public_key(encrypted, SECRET)


def test_unknown_key_type_is_refused():
    with pytest.raises(pki.PkiError, match="'dsa' is unknown: one of ec-p384, ec-p256"):
        pki.make_key("dsa")  # type: ignore[arg-type]


def test_empty_passphrase_is_refused():
    with pytest.raises(pki.PkiError, match="passphrase is empty"):
        pki.make_key(passphrase="")


@pytest.mark.parametrize(
    ("encrypted", "passphrase", "problem"),
    [
        (True, None, "is encrypted: give its passphrase"),
        (True, "", "is encrypted: give its passphrase"),
        (True, "wrong secret", "the passphrase is wrong, or the file is damaged"),
        (False, "wrong secret", "not encrypted, but a passphrase was given"),
    ],
)
def test_passphrase_that_does_not_fit_is_an_error_and_never_shown(encrypted, passphrase, problem):
    key = pki.make_key(passphrase=SECRET if encrypted else None)

    with pytest.raises(pki.PkiError, match=problem) as caught:
        pki.public_key(key, passphrase)

    shown = "".join(traceback.format_exception(caught.value))
    assert SECRET not in shown
    assert "wrong secret" not in shown


def test_damaged_keys_are_an_error():
    lines = pki.make_key().splitlines()
    lines[1] = b"AAAA" + lines[1][4:]

    with pytest.raises(pki.PkiError, match="the file is damaged"):
        pki.public_key(b"\n".join(lines))


@pytest.mark.parametrize(
    "key",
    [
        rsa.generate_private_key(65537, 2048),
        ec.generate_private_key(ec.SECP521R1()),
        ec.generate_private_key(ec.SECP256K1()),
        ed448.Ed448PrivateKey.generate(),
        dsa.generate_private_key(1024),
    ],
    ids=lambda key: type(key).__name__,
)
def test_weak_and_exotic_keys_are_refused_in_each_form(key, authority):
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "shop")])
    digest = None if isinstance(key, ed448.Ed448PrivateKey) else hashes.SHA256()
    csr = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, digest)

    for attempt in (
        lambda: pki.public_key(private),
        lambda: pki.certify(authority, "shop", NAMES, public),
        lambda: pki.read_request(csr.public_bytes(Encoding.PEM)),
    ):
        with pytest.raises(pki.PkiError, match="too weak or not supported: make one of ec-p384"):
            attempt()


def test_rsa_key_with_a_small_exponent_is_refused():
    key = rsa.generate_private_key(3, 3072)

    with pytest.raises(pki.PkiError, match="too weak"):
        pki.public_key(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))


def test_private_key_is_in_no_repr(authority, device):
    assert "PRIVATE KEY" not in repr(device)
    assert "_key" not in repr(authority)


# --- the root -------------------------------------------------------------------------------------


def test_root_can_be_loaded_and_signs():
    root = pki.make_root("Plant One", passphrase=SECRET, now=NOW)

    authority = pki.load_authority(root.certificate, root.key, SECRET)

    assert authority.name == "Plant One"
    assert authority.certificate == root.certificate
    assert authority.info == pki.inspect(root.certificate)
    device = pki.issue(authority, "shop", NAMES, now=NOW)
    assert pki.inspect(device.certificate).subject == "CN=shop,O=Plant One"
    assert pki.inspect(device.certificate).names.uris == ("spiffe://plant-one/shop",)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"name": ""}, "name of the CA '' is empty"),
        ({"name": "x" * 56}, "56 characters: 55 fit"),
        ({"name": "电力"}, "neither a Latin letter nor a digit"),
        ({"name": "a/b"}, "path separator"),
        ({"days": 0}, "0 days are not possible: 1 to 7300"),
        ({"days": 7301}, "7301 days are not possible"),
        ({"key_type": "ec"}, "'ec' is unknown"),
        ({"passphrase": ""}, "passphrase is empty"),
        ({"permit_dns": [".plant.example"]}, "cannot be permitted: give a plain one"),
        ({"permit_dns": ["*.plant.example"]}, "cannot be permitted: give a plain one"),
        ({"permit_dns": ["10.0.0.3"]}, "cannot be permitted: give a plain one"),
        ({"permit_dns": ["my_host"]}, "underscore"),
        ({"permit_ips": ["10.0.0.3/8"]}, "has host bits set"),
        ({"permit_ips": ["plant.example"]}, "expected one like 10.0.0.0/8"),
        ({"now": dt.datetime(2026, 3, 1)}, "has no time zone"),  # noqa: DTZ001
    ],
)
def test_bad_parameter_of_a_root_is_refused(options, problem):
    with pytest.raises(pki.PkiError, match=problem):
        pki.make_root(**{"name": "plant", **options})


def test_longest_name_of_a_ca_fits():
    assert load("x" * 55).name == "x" * 55


def test_key_of_another_root_is_refused():
    one, other = pki.make_root("plant"), pki.make_root("plant")

    with pytest.raises(pki.PkiError, match="private key does not belong to the certificate of CN="):
        pki.load_authority(one.certificate, other.key)


def test_device_is_no_root(device):
    with pytest.raises(pki.PkiError, match="CN=shop,O=plant is no root"):
        pki.load_authority(device.certificate, device.key)


# --- certificates of devices ----------------------------------------------------------------------


def test_device_has_the_key_and_the_names_it_was_given(authority, device):
    info = pki.inspect(device.certificate)

    assert info.name == "shop"
    assert info.issuer == authority.info.subject
    assert str(info.names) == "DNS:shop.plant.example, IP:10.0.0.3, URI:spiffe://plant/shop"
    assert info.key_fingerprint == key_fingerprint(pki.public_key(device.key))
    assert not info.is_ca


def key_fingerprint(public: bytes) -> str:
    der = openssl("pkey", "-pubin", "-outform", "DER", stdin=public).stdout
    digest = openssl("dgst", "-sha256", "-hex", stdin=der).stdout
    return digest.split()[-1].decode()


def test_own_uri_replaces_the_identity(authority):
    names = pki.parse_names(["a"], uris=["urn:uuid:f81d4fae-7dec-11d0-a765-00a0c91e6bf6"])

    device = pki.issue(authority, "shop", names, now=NOW)

    assert pki.inspect(device.certificate).names == names


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"name": ""}, "name '' is empty"),
        ({"name": "x" * 65}, "65 characters"),
        ({"name": "../shop"}, "path separator"),
        ({"names": pki.Names()}, "neither a DNS name nor an address"),
        ({"names": pki.parse_names(uris=["urn:x:y"])}, "neither a DNS name nor an address"),
        ({"names": pki.Names(dns=("bad name",))}, "has the label"),
        ({"names": pki.Names(dns=("a",), uris=("urn:x:y", "urn:x:z"))}, "one identity"),
        (
            {"names": pki.parse_names(["a"], uris=["spiffe://other/shop"])},
            "not one of this CA, whose identities begin with spiffe://plant/: ask for spiffe://plant/",
        ),
        (
            {"names": pki.parse_names(["a"], uris=["spiffe://plant.other/shop"])},
            "not one of this CA",
        ),
        ({"days": 0}, "0 days are not possible: 1 to 365"),
        ({"days": 366}, "366 days are not possible: 1 to 365"),
        ({"now": NOW + 3651 * DAY}, "check the clock, or rotate the CA"),
        ({"now": NOW - DAY}, "check the clock, or rotate the CA"),
        ({"public_key": b"nothing"}, "public key cannot be read"),
    ],
)
def test_bad_parameter_of_a_device_is_refused(authority, options, problem):
    good = {"name": "shop", "names": NAMES, "public_key": pki.public_key(pki.make_key())}

    with pytest.raises(pki.PkiError, match=problem):
        pki.certify(authority, **{"now": NOW, **good, **options})


def test_key_of_the_ca_is_none_for_a_device():
    root = pki.make_root("plant", now=NOW)
    authority = pki.load_authority(root.certificate, root.key)

    with pytest.raises(pki.PkiError, match="the CA's own"):
        pki.certify(authority, "shop", NAMES, pki.public_key(root.key), now=NOW)


@pytest.mark.parametrize(
    ("host", "permitted"),
    [
        ("plant.example", True),
        ("shop.plant.example", True),
        ("a.b.plant.example", True),
        ("*.plant.example", True),
        ("notplant.example", False),
        ("plant.example.org", False),
        ("localhost", False),
        ("10.1.2.3", True),
        ("11.1.2.3", False),
        ("192.0.2.7", True),
        ("192.0.2.8", False),
        # What is permitted for one family of addresses forbids the other.
        ("fd00::3", False),
    ],
)
def test_constrained_ca_signs_only_what_it_may(host, permitted):
    ca = load(permit_dns=["plant.example"], permit_ips=["10.0.0.0/8", "192.0.2.7"])

    def issue() -> pki.KeyAndCertificate:
        return pki.issue(ca, "shop", pki.parse_names([host]), now=NOW)

    if permitted:
        assert host in str(pki.inspect(issue().certificate).names)
    else:
        with pytest.raises(pki.PkiError, match=f"^{re.escape(host)} is outside of what the CA is"):
            issue()


def test_constraint_for_dns_names_leaves_addresses_free():
    ca = load(permit_dns=["plant.example"])

    device = pki.issue(ca, "shop", pki.parse_names(["10.0.0.3", "fd00::3"]), now=NOW)

    assert len(pki.inspect(device.certificate).names.ips) == 2


def test_key_of_a_device_can_be_encrypted(authority):
    device = pki.issue(authority, "shop", NAMES, passphrase=SECRET, now=NOW)

    fingerprint = key_fingerprint(pki.public_key(device.key, SECRET))
    assert pki.inspect(device.certificate).key_fingerprint == fingerprint


def test_wall_clock_is_used_where_no_time_is_given():
    before = dt.datetime.now(dt.UTC).replace(microsecond=0)
    root = pki.make_root("plant")
    after = dt.datetime.now(dt.UTC)

    begin = pki.inspect(root.certificate).not_before + dt.timedelta(minutes=5)
    assert before <= begin <= after


# --- signing requests -----------------------------------------------------------------------------


def csr_of(builder: x509.CertificateSigningRequestBuilder, key=None) -> bytes:
    key = key or ec.generate_private_key(ec.SECP256R1())
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM)


def builder_of(name: str | None = "shop", *names: x509.GeneralName):
    parts = [] if name is None else [x509.NameAttribute(x509.NameOID.COMMON_NAME, name)]
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name(parts))
    return builder.add_extension(x509.SubjectAlternativeName(names), False) if names else builder


def test_request_says_what_it_asks_for():
    key = pki.make_key("ec-p384")

    request = pki.read_request(pki.make_request("shop", NAMES, key))

    assert request == pki.Request(
        "shop", NAMES, "ec-p384", key_fingerprint(pki.public_key(key)), ()
    )


@pytest.mark.parametrize("key_type", pki.KEY_TYPES)
def test_request_of_each_key_type_is_signed(authority, key_type):
    key = pki.make_key(key_type)

    certificate = pki.sign(authority, pki.make_request("shop", NAMES, key), now=NOW)

    info = pki.inspect(certificate)
    assert info.key == key_type
    assert info.key_fingerprint == key_fingerprint(pki.public_key(key))
    assert info.names == dataclasses.replace(NAMES, uris=("spiffe://plant/shop",))
    assert info.subject == "CN=shop,O=plant"


def test_openssl_can_read_a_request():
    csr = pki.make_request("shop", NAMES, pki.make_key(passphrase=SECRET), SECRET)

    result = openssl("req", "-verify", "-noout", "-text", stdin=csr)
    assert result.returncode == 0
    assert b"DNS:shop.plant.example, IP Address:10.0.0.3" in result.stdout


def test_only_key_and_names_are_copied(authority):
    subject = x509.Name(
        [
            x509.NameAttribute(x509.NameOID.ORGANIZATION_NAME, "Evil"),
            x509.NameAttribute(x509.NameOID.COMMON_NAME, "shop"),
            x509.NameAttribute(x509.NameOID.COMMON_NAME, "bank"),
        ]
    )
    usage = x509.KeyUsage(*[name == 5 for name in range(9)])
    csr = csr_of(
        x509.CertificateSigningRequestBuilder(subject)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("Shop.Plant.Example")]), False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(
            x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00"), False
        )
    )

    request = pki.read_request(csr)
    certificate = pki.sign(authority, csr, now=NOW)

    assert request.ignored == (
        "subject: O=Evil",
        "subject: CN=bank",
        "extension: BasicConstraints",
        "extension: KeyUsage",
        "extension: 1.2.3.4",
    )
    info = pki.inspect(certificate)
    assert info.subject == "CN=shop,O=plant"
    assert str(info.names) == "DNS:shop.plant.example, URI:spiffe://plant/shop"
    findings = pki.check(certificate, authority.certificate, now=NOW)
    assert pki.worst(findings) is pki.Severity.GOOD


def test_name_given_at_signing_replaces_that_of_the_request(authority):
    csr = csr_of(builder_of(None, x509.DNSName("a")))

    info = pki.inspect(pki.sign(authority, csr, name="shop", now=NOW))

    assert (info.name, info.names.uris) == ("shop", ("spiffe://plant/shop",))


@pytest.mark.parametrize(
    ("builder", "problem"),
    [
        (builder_of(None, x509.DNSName("a")), "name '' is empty"),
        (builder_of("a/b", x509.DNSName("a")), "path separator"),
        (builder_of("shop"), "neither a DNS name nor an address"),
        (builder_of("shop", x509.UniformResourceIdentifier("urn:x:y")), "neither a DNS name nor"),
        (builder_of("shop", x509.DNSName("*")), "wildcard"),
        (builder_of("shop", x509.DNSName("a b")), "has the label"),
        (builder_of("shop", x509.DNSName("")), "is empty"),
        (builder_of("shop", x509.RFC822Name("me@a.example")), "of the kind RFC822Name"),
        (builder_of("shop", x509.RegisteredID(x509.ObjectIdentifier("1.2.3"))), "RegisteredID"),
        (
            builder_of(
                "shop",
                x509.DNSName("a"),
                x509.UniformResourceIdentifier("urn:x:y"),
                x509.UniformResourceIdentifier("urn:x:z"),
            ),
            "one identity",
        ),
        (
            builder_of(
                "shop", x509.DNSName("a"), x509.UniformResourceIdentifier("spiffe://other/shop")
            ),
            "not one of this CA",
        ),
    ],
)
def test_request_for_something_bad_is_not_signed(authority, builder, problem):
    with pytest.raises(pki.PkiError, match=problem):
        pki.sign(authority, csr_of(builder), now=NOW)


def test_request_with_a_wrong_signature_is_refused(authority):
    der = x509.load_pem_x509_csr(csr_of(builder_of("shop", x509.DNSName("aaaa")))).public_bytes(
        Encoding.DER
    )
    body = base64.encodebytes(der.replace(b"aaaa", b"bbbb"))
    header, end = b"-----BEGIN CERTIFICATE REQUEST-----\n", b"-----END CERTIFICATE REQUEST-----\n"

    with pytest.raises(pki.PkiError, match="wrong signature"):
        pki.sign(authority, header + body + end, now=NOW)


def test_text_of_a_request_does_nothing_to_a_terminal():
    request = pki.read_request(csr_of(builder_of("a\x1b[2Jb\u202e", x509.DNSName("a"))))

    assert request.name == "a\\x1b[2Jb\\u202e"


def test_huge_request_is_refused():
    csr = csr_of(builder_of("shop", *(x509.DNSName(f"{'a' * 40}{i}") for i in range(2000))))

    with pytest.raises(pki.PkiError, match="65536 are the limit"):
        pki.read_request(csr)


def test_request_of_a_bad_name_or_without_names_is_not_made():
    key = pki.make_key()

    with pytest.raises(pki.PkiError, match="path separator"):
        pki.make_request("a/b", NAMES, key)
    with pytest.raises(pki.PkiError, match="neither a DNS name nor an address"):
        pki.make_request("shop", pki.Names(), key)


# --- renewal --------------------------------------------------------------------------------------


def test_renewed_certificate_has_the_key_and_names_of_the_old_one(authority, device):
    later = NOW + 300 * DAY

    renewed = pki.inspect(pki.renew(authority, device.certificate, now=later))

    old = pki.inspect(device.certificate)
    assert (renewed.key_fingerprint, renewed.names, renewed.subject) == (
        old.key_fingerprint,
        old.names,
        old.subject,
    )
    assert renewed.serial != old.serial
    assert renewed.not_after == later - dt.timedelta(minutes=5) + 365 * DAY - SECOND


def test_renewal_can_have_another_key(authority, device):
    public = pki.public_key(pki.make_key("ec-p384"))

    renewed = pki.renew(authority, device.certificate, public_key=public, now=NOW)

    assert pki.inspect(renewed).key == "ec-p384"
    assert pki.inspect(renewed).names == pki.inspect(device.certificate).names


def test_expired_certificate_can_be_renewed(authority, device):
    assert pki.renew(authority, device.certificate, now=NOW + 500 * DAY)


def test_next_generation_renews_what_the_former_issued(authority, device):
    generation = load()

    renewed = pki.renew(generation, device.certificate, former=authority.certificate, now=NOW + DAY)

    assert pki.inspect(renewed).issuer == generation.info.subject
    assert pki.inspect(renewed).names == pki.inspect(device.certificate).names
    findings = pki.check(renewed, generation.certificate, now=NOW + DAY)
    assert pki.worst(findings) is pki.Severity.GOOD


def test_certificate_of_a_stranger_is_not_renewed(authority):
    stranger = load("stranger")
    device = pki.issue(stranger, "shop", NAMES, now=NOW)

    with pytest.raises(pki.PkiError, match="not among the CAs given"):
        pki.renew(authority, device.certificate, now=NOW)


def test_certificate_that_only_names_us_is_not_renewed(authority, device):
    old = x509.load_pem_x509_certificate(device.certificate)
    key = ec.generate_private_key(ec.SECP256R1())
    forged = (
        x509.CertificateBuilder(
            old.issuer,
            old.subject,
            key.public_key(),
            old.serial_number,
            old.not_valid_before_utc,
            old.not_valid_after_utc,
        )
        .sign(key, hashes.SHA256())
        .public_bytes(Encoding.PEM)
    )

    with pytest.raises(pki.PkiError, match="not signed by the CN=plant"):
        pki.renew(authority, forged, now=NOW)


# --- revocation lists -----------------------------------------------------------------------------

REVOKED = (
    pki.Revocation("a1b2", NOW - DAY),
    *(
        pki.Revocation(f"b{number}", NOW - 2 * DAY, reason)
        for number, reason in enumerate(pki.REASONS)
    ),
)


def test_revocation_list_says_what_was_put_into_it(authority):
    crl = pki.make_crl(authority, REVOKED, number=7, days=30, now=NOW)

    assert pki.read_crl(crl, authority.certificate) == pki.CrlInfo(
        issuer=authority.info.subject,
        number=7,
        this_update=NOW - dt.timedelta(minutes=5),
        next_update=NOW + 30 * DAY,
        revoked=REVOKED,
    )


def test_empty_revocation_list_is_one(authority):
    crl = pki.make_crl(authority, [], number=1, now=NOW)

    info = pki.read_crl(crl)
    assert (info.number, info.revoked) == (1, ())
    assert info.next_update == NOW + 90 * DAY


def test_unspecified_reason_is_left_out(authority):
    crl = pki.make_crl(authority, REVOKED[:2], number=1, now=NOW)

    text = openssl("crl", "-noout", "-text", stdin=crl).stdout
    assert b"Reason Code" not in text


@pytest.mark.parametrize("key_type", pki.KEY_TYPES)
def test_revocation_list_is_signed_by_each_kind_of_key(key_type):
    ca = load(key_type=key_type)

    crl = pki.make_crl(ca, REVOKED, number=1, now=NOW)

    assert pki.read_crl(crl, ca.certificate).revoked == REVOKED


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"number": 0}, "number 0 of the revocation list is not positive"),
        ({"number": 1 << 159}, "not positive"),
        ({"days": 0}, "1 to 3650"),
        ({"days": 3651}, "1 to 3650"),
        ({"revoked": [pki.Revocation("a", NOW), pki.Revocation("0A", NOW)]}, "revoked twice"),
        ({"revoked": [pki.Revocation("shop", NOW)]}, "serial number 'shop'"),
        ({"revoked": [pki.Revocation("a", NOW, "whim")]}, "reason 'whim' is unknown"),  # type: ignore[arg-type]
        ({"revoked": [pki.Revocation("a", NOW.replace(tzinfo=None))]}, "no time zone"),
    ],
)
def test_bad_parameter_of_a_revocation_list_is_refused(authority, options, problem):
    with pytest.raises(pki.PkiError, match=problem):
        pki.make_crl(authority, **{"revoked": [], "number": 1, "now": NOW, **options})


def test_revocation_list_of_another_ca_is_refused(authority):
    crl = pki.make_crl(load(), [], number=1, now=NOW)

    with pytest.raises(pki.PkiError, match="signed by none of the CAs given"):
        pki.read_crl(crl, authority.certificate)


def test_forged_revocation_list_is_refused(authority):
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.load_pem_x509_certificate(authority.certificate).subject
    forged = (
        x509.CertificateRevocationListBuilder(subject, NOW, NOW + DAY)
        .add_extension(x509.CRLNumber(9), critical=False)
        .sign(key, hashes.SHA256())
        .public_bytes(Encoding.PEM)
    )

    assert pki.read_crl(forged).number == 9
    with pytest.raises(pki.PkiError, match="signed by none of the CAs given"):
        pki.read_crl(forged, authority.certificate)


def test_revocation_list_without_a_number_is_refused(authority):
    crl = (
        x509.CertificateRevocationListBuilder(x509.Name([]), NOW, NOW + DAY)
        .sign(ec.generate_private_key(ec.SECP256R1()), hashes.SHA256())
        .public_bytes(Encoding.PEM)
    )

    with pytest.raises(pki.PkiError, match="has no number"):
        pki.read_crl(crl)


# --- rotation -------------------------------------------------------------------------------------


def test_bundle_has_each_generation_once_in_order():
    old, new = load(), load()

    both = pki.bundle(new.certificate, old.certificate, new.certificate + old.certificate)

    assert pki.split(both) == (new.certificate, old.certificate)


def test_devices_of_both_generations_are_good_with_a_bundle():
    old, new = load(), load()
    both = pki.bundle(new.certificate, old.certificate)

    for ca in (old, new):
        device = pki.issue(ca, "shop", NAMES, now=NOW)
        findings = pki.check(device.certificate, both, now=NOW)
        assert pki.worst(findings) is pki.Severity.GOOD


@pytest.mark.parametrize("part", [b"", b"nothing"])
def test_bundle_of_nothing_is_refused(part):
    with pytest.raises(pki.PkiError, match="nothing of the kind"):
        pki.bundle(part)


def test_device_has_no_place_in_a_bundle(authority, device):
    with pytest.raises(pki.PkiError, match="CN=shop,O=plant is no CA's"):
        pki.bundle(authority.certificate, device.certificate)


# --- looking --------------------------------------------------------------------------------------


def test_inspection_agrees_with_openssl(device):
    info = pki.inspect(device.certificate)

    def field(*options: str) -> str:
        result = openssl("x509", "-noout", *options, stdin=device.certificate)
        return result.stdout.decode().strip().partition("=")[2]

    assert info.serial == pki.parse_serial(field("-serial"))
    assert info.fingerprint == field("-fingerprint", "-sha256").replace(":", "").lower()
    assert f"{info.not_after:%b %e %H:%M:%S %Y} GMT" == field("-enddate")
    assert info.subject == field("-subject", "-nameopt", "rfc2253")


def test_values_can_become_json(authority, device):
    crl = pki.make_crl(authority, REVOKED, number=7, days=30, now=NOW)
    info = pki.inspect(device.certificate)

    assert json.loads(json.dumps(info.as_dict())) == {
        "name": "shop",
        "subject": "CN=shop,O=plant",
        "issuer": authority.info.subject,
        "names": {
            "dns": ["shop.plant.example"],
            "ips": ["10.0.0.3"],
            "uris": ["spiffe://plant/shop"],
        },
        "key": "ec-p256",
        "serial": info.serial,
        "not_before": "2026-03-01T11:55:00+00:00",
        "not_after": "2027-03-01T11:54:59+00:00",
        "fingerprint": info.fingerprint,
        "key_fingerprint": info.key_fingerprint,
        "is_ca": False,
    }
    listed = json.loads(json.dumps(pki.read_crl(crl).as_dict()))
    assert listed["next_update"] == "2026-03-31T12:00:00+00:00"
    assert listed["revoked"][0] == {
        "serial": "a1b2",
        "when": "2026-02-28T12:00:00+00:00",
        "reason": "unspecified",
    }
    request = pki.read_request(pki.make_request("shop", NAMES, pki.make_key()))
    assert json.loads(json.dumps(request.as_dict()))["names"]["dns"] == ["shop.plant.example"]


def test_kind_of_each_file_is_known(authority, device):
    key = pki.make_key()
    files = {
        "certificate": device.certificate,
        "request": pki.make_request("shop", NAMES, key),
        "crl": pki.make_crl(authority, [], number=1, now=NOW),
        "key": key,
    }

    assert {kind: pki.kind_of(data) for kind, data in files.items()} == {
        kind: kind for kind in files
    }


def test_subject_of_a_certificate_does_nothing_to_a_terminal():
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "a\x1b[2Jb")])
    cert = x509.CertificateBuilder(name, name, key.public_key(), 1, NOW, NOW + DAY)

    info = pki.inspect(cert.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM))

    assert (info.name, info.subject) == ("a\\x1b[2Jb", "CN=a\\x1b[2Jb")


@pytest.mark.usefixtures("slow_keys")
def test_weak_encryption_of_others_can_be_replaced():
    key = ec.generate_private_key(ec.SECP256R1())
    weak = key.private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(SECRET.encode())
    )

    strong = pki.encrypt_key(weak, SECRET, "another")

    assert pki.public_key(strong, "another") == pki.public_key(weak, SECRET)
    assert b":0927C0" in openssl("asn1parse", stdin=strong).stdout


# --- the module -----------------------------------------------------------------------------------


def test_everything_public_is_documented():
    constants = {"CA_DAYS", "CA_KEY_TYPE", "CRL_DAYS", "DEVICE_DAYS", "DEVICE_KEY_TYPE"}
    constants |= {"KEY_TYPES", "KeyType", "REASONS", "Reason"}

    assert sorted(pki.__all__) == sorted({*pki.__all__})
    for name in set(pki.__all__) - constants:
        assert getattr(pki, name).__doc__, name
        assert not getattr(pki, name).__doc__.startswith(f"{name}("), name
