"""Checks say what is good, what needs renewal and what is broken, and they never raise."""

from __future__ import annotations

import base64
import contextlib
import datetime as dt
import functools
import json
import re
import subprocess
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID as Purpose
from hypothesis import given
from hypothesis import strategies as st

from pki import _keys, _profile
from pki import authority as pki
from pki.authority import Severity

GOOD, RENEW, BROKEN = Severity.GOOD, Severity.RENEW, Severity.BROKEN
NOW = dt.datetime(2026, 3, 1, 12, tzinfo=dt.UTC)
DAY = dt.timedelta(days=1)
NAMES = pki.parse_names(["shop.plant.example", "*.cells.plant.example", "10.0.0.3"])
ROOT = pki.make_root("plant", now=NOW)
CA = pki.load_authority(ROOT.certificate, ROOT.key)
DEVICE = pki.issue(CA, "shop", NAMES, now=NOW)


def check(certificate: bytes = DEVICE.certificate, ca: bytes = ROOT.certificate, **kwargs):
    return pki.check(certificate, ca, **{"now": NOW, **kwargs})


def bad(findings) -> list[tuple[Severity, str, str]]:
    return [
        (finding.severity, finding.topic, finding.text)
        for finding in findings
        if finding.severity is not GOOD
    ]


def only(findings) -> tuple[Severity, str, str]:
    (finding,) = bad(findings)
    return finding


# --- what is good ---------------------------------------------------------------------------------


def test_good_device_has_a_good_finding_for_each_topic():
    crl = pki.make_crl(CA, [], number=1, now=NOW)

    findings = check(
        key=DEVICE.key, hosts=["shop.plant.example", "10.0.0.3"], crl=crl, within=30 * DAY
    )

    assert [(finding.topic, finding.text) for finding in findings] == [
        ("chain", f"issued by {CA.info.subject}"),
        ("expiry", "valid until 2027-03-01, for 364 days"),
        ("key", "private key and certificate belong together"),
        ("host", "is good for shop.plant.example"),
        ("host", "is good for 10.0.0.3"),
        ("profile", "follows the profile"),
        ("crl", "revocation list 1 is good until 2026-05-30"),
        ("revoked", "is not revoked"),
    ]
    assert pki.worst(findings) is GOOD


def test_good_ca_has_a_good_finding_for_each_topic():
    crl = pki.make_crl(CA, [], number=1, now=NOW)

    findings = pki.check_ca(ROOT.certificate, key=ROOT.key, crl=crl, now=NOW)

    assert [finding.topic for finding in findings] == ["chain", "expiry", "key", "profile", "crl"]
    assert bad(findings) == []


def test_worst_of_nothing_is_good():
    assert pki.worst(()) is GOOD
    assert [severity.value for severity in Severity] == [0, 1, 2]


def test_finding_can_become_json():
    finding = pki.Finding(RENEW, "expiry", "expires soon: renew it")

    assert json.loads(json.dumps(finding.as_dict())) == {
        "severity": "renew",
        "topic": "expiry",
        "text": "expires soon: renew it",
    }


def test_clock_of_this_machine_is_used_where_no_time_is_given():
    root = pki.make_root("plant")
    device = pki.issue(pki.load_authority(root.certificate, root.key), "shop", NAMES)

    assert bad(pki.check(device.certificate, root.certificate)) == []
    assert bad(pki.check_ca(root.certificate)) == []


# --- expiry ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("now", "severity", "text"),
    [
        (NOW - DAY, BROKEN, "not valid before 2026-03-01 11:55 UTC: check the clock"),
        (NOW + 330 * DAY, GOOD, "valid until 2027-03-01, for 34 days"),
        (NOW + 336 * DAY, RENEW, "expires on 2027-03-01 11:54 UTC, in 28 days: renew it"),
        (NOW + 364 * DAY, RENEW, "in 23 hours: renew it"),
        (NOW + 365 * DAY, BROKEN, "expired on 2027-03-01 11:54 UTC: renew it"),
    ],
)
def test_expiry_of_a_device(now, severity, text):
    (finding,) = [item for item in check(now=now) if item.topic == "expiry"]

    assert finding.severity is severity
    assert text in finding.text


def test_period_within_which_to_renew_can_be_chosen():
    assert bad(check(within=364 * DAY)) == []
    assert only(check(within=365 * DAY))[:2] == (RENEW, "expiry")


@pytest.mark.parametrize(
    ("now", "severity"),
    [(NOW + 3600 * DAY, GOOD), (NOW + 3625 * DAY, RENEW), (NOW + 3650 * DAY, BROKEN)],
)
def test_expiry_of_a_ca(now, severity):
    findings = pki.check_ca(ROOT.certificate, now=now)

    assert pki.worst(findings) is severity
    assert all("rotate the CA" in text for _, _, text in bad(findings))


def test_expiry_of_its_ca_is_one_of_the_device():
    root = pki.make_root("plant", days=20, now=NOW)
    device = pki.issue(pki.load_authority(root.certificate, root.key), "shop", NAMES, now=NOW)

    findings = bad(check(device.certificate, root.certificate))

    assert [(severity, topic) for severity, topic, _ in findings] == [
        (RENEW, "chain"),
        (RENEW, "expiry"),
    ]
    assert findings[0][2].startswith("its CA: expires on 2026-03-21 11:54 UTC, in 19 days: rotate")


# --- chain ----------------------------------------------------------------------------------------


def test_another_ca_is_broken():
    other = pki.make_root("other", now=NOW).certificate

    severity, topic, text = only(check(ca=other))

    assert (severity, topic) == (BROKEN, "chain")
    assert text.startswith(f"issued by {CA.info.subject}, which is not among the CAs given: put")


def self_signed(subject: x509.Name, *extensions: tuple[x509.ExtensionType, bool]) -> bytes:
    key = ec.generate_private_key(ec.SECP256R1())
    builder = x509.CertificateBuilder(
        subject, subject, key.public_key(), x509.random_serial_number(), NOW - DAY, NOW + 99 * DAY
    )
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical)
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM)


def test_ca_of_the_same_name_with_another_key_is_broken():
    subject = x509.load_pem_x509_certificate(ROOT.certificate).subject
    impostor = self_signed(subject, (x509.BasicConstraints(ca=True, path_length=0), True))

    severity, topic, text = only(check(ca=impostor))

    assert (severity, topic) == (BROKEN, "chain")
    assert "has the same name and another key" in text
    # The right one beside it is found.
    assert bad(check(ca=impostor + ROOT.certificate)) == []


def test_device_signed_by_a_device_is_broken():
    leaf = x509.load_pem_x509_certificate(DEVICE.certificate)
    public = ec.generate_private_key(ec.SECP256R1()).public_key()
    forged = _profile.build_device(
        leaf,
        _keys.load(DEVICE.key),
        _profile.subject("plant", "shop"),
        pki.parse_names(["a"], uris=["spiffe://plant/shop"]),
        public,
        (NOW, NOW + 90 * DAY),
    ).public_bytes(Encoding.PEM)

    severity, topic, text = only(check(forged, DEVICE.certificate))

    assert (severity, topic) == (BROKEN, "chain")
    assert "is no CA" in text


def test_ca_in_the_place_of_a_device_is_broken():
    assert only(check(ROOT.certificate))[:2] == (BROKEN, "profile")


def test_device_in_the_place_of_a_ca_is_broken():
    assert only(pki.check_ca(DEVICE.certificate, now=NOW))[:2] == (BROKEN, "profile")


def test_intermediate_ca_is_no_root():
    subject, issuer = _profile.subject("plant", "plant 2"), _profile.subject("plant", "plant 1")
    key = ec.generate_private_key(ec.SECP384R1())
    cert = x509.CertificateBuilder(
        issuer, subject, key.public_key(), x509.random_serial_number(), NOW, NOW + 90 * DAY
    )
    for extension, critical in [
        (x509.BasicConstraints(ca=True, path_length=0), True),
        (_profile.CA_USAGE, True),
        (x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False),
    ]:
        cert = cert.add_extension(extension, critical)
    pem = cert.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM)

    severity, topic, text = only(pki.check_ca(pem, now=NOW))

    assert (severity, topic) == (BROKEN, "chain")
    assert "not signed by itself" in text


@pytest.mark.parametrize("damaged", ["certificate", "ca", "key", "crl"])
@pytest.mark.parametrize("data", [b"", b"nothing", b"\x30\x82", ROOT.certificate[:200]])
def test_what_cannot_be_read_is_broken(damaged, data):
    good = {"certificate": DEVICE.certificate, "ca": ROOT.certificate}

    findings = check(**{**good, damaged: data})

    severity, topic, _ = only(findings)
    assert severity is BROKEN
    assert topic == {"certificate": "chain", "ca": "chain"}.get(damaged, damaged)


# --- key ------------------------------------------------------------------------------------------


def test_key_of_another_device_is_broken():
    assert only(check(key=pki.make_key()))[:2] == (BROKEN, "key")


def test_encrypted_key_of_a_device_needs_its_passphrase():
    key = pki.encrypt_key(DEVICE.key, None, "a secret")

    assert bad(check(key=key, passphrase="a secret")) == []
    for passphrase in (None, "another"):
        severity, topic, text = only(check(key=key, passphrase=passphrase))
        assert (severity, topic) == (BROKEN, "key")
        assert "another" not in text


def test_encrypted_key_of_a_ca_is_not_compared_without_its_passphrase():
    key = pki.encrypt_key(ROOT.key, None, "a secret")

    (finding,) = [
        item for item in pki.check_ca(ROOT.certificate, key=key, now=NOW) if item.topic == "key"
    ]

    assert (finding.severity, finding.text) == (GOOD, "private key is encrypted (not compared)")
    assert bad(pki.check_ca(ROOT.certificate, key=key, passphrase="a secret", now=NOW)) == []


def test_key_of_another_ca_is_broken():
    other = pki.make_key()

    for key, passphrase in ((other, None), (pki.encrypt_key(other, None, "x"), "x"), (b"", None)):
        findings = pki.check_ca(ROOT.certificate, key=key, passphrase=passphrase, now=NOW)
        assert only(findings)[:2] == (BROKEN, "key")


# --- hosts ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "good"),
    [
        ("shop.plant.example", True),
        ("SHOP.plant.example.", True),
        ("10.0.0.3", True),
        ("a.cells.plant.example", True),
        ("a.b.cells.plant.example", False),
        ("cells.plant.example", False),
        ("plant.example", False),
        ("shop", False),
        ("10.0.0.4", False),
        ("bad name", False),
    ],
)
def test_hosts_are_compared_with_the_names(host, good):
    findings = check(hosts=[host])

    if good:
        assert bad(findings) == []
    else:
        assert only(findings)[:2] == (BROKEN, "host")


# --- profile --------------------------------------------------------------------------------------

Extensions = dict[type[x509.ExtensionType], tuple[x509.ExtensionType, bool] | None]


def usage(*names: str) -> x509.KeyUsage:
    every = """
        digital_signature content_commitment key_encipherment data_encipherment key_agreement
        key_cert_sign crl_sign encipher_only decipher_only
        """
    return x509.KeyUsage(**{name: name in names for name in every.split()})


def alternative(*names: str, **kwargs) -> x509.SubjectAlternativeName:
    return _profile.alternative_names(pki.Names(names, **kwargs))


OURS = ("spiffe://plant/shop",)


def altered(
    base: bytes,
    changes: Extensions | None = None,
    *,
    serial: int | None = None,
    days: int | None = None,
    subject: x509.Name | None = None,
    public=None,
) -> bytes:
    """Return a certificate, signed by the CA again, that differs from a good one."""
    old = x509.load_pem_x509_certificate(base)
    builder = x509.CertificateBuilder(
        old.issuer,
        old.subject if subject is None else subject,
        public or old.public_key(),
        serial or old.serial_number,
        old.not_valid_before_utc,
        old.not_valid_before_utc + days * DAY if days else old.not_valid_after_utc,
    )
    extensions: Extensions = {
        type(item.value): (item.value, item.critical) for item in old.extensions
    }
    for entry in (extensions | (changes or {})).values():
        if entry is not None:
            builder = builder.add_extension(*entry)
    return builder.sign(CA._key, hashes.SHA384()).public_bytes(Encoding.PEM)


DEVIATIONS: dict[str, tuple[Severity, str, dict[str, Any]]] = {
    "short serial": (RENEW, "too short to be random", {"serial": 5}),
    "no common name": (RENEW, "no common name", {"subject": x509.Name([])}),
    "RSA-2048": (
        RENEW,
        r"key \(rsa-2048\) is too weak",
        {"public": rsa.generate_private_key(65537, 2048).public_key()},
    ),
    "RSA-1024": (
        BROKEN,
        r"key \(rsa-1024\) is too weak",
        {"public": rsa.generate_private_key(65537, 1024).public_key()},
    ),
    "curve": (
        BROKEN,
        r"key \(ec-secp256k1\) is too weak",
        {"public": ec.generate_private_key(ec.SECP256K1()).public_key()},
    ),
    "two years": (RENEW, "valid for more than 365 days", {"days": 730}),
    "no SKI": (RENEW, "no subject key identifier", {"changes": {x509.SubjectKeyIdentifier: None}}),
    "no AKI": (
        BROKEN,
        "no authority key identifier",
        {"changes": {x509.AuthorityKeyIdentifier: None}},
    ),
    "no names": (
        BROKEN,
        "no alternative names: the common name alone counts for nothing",
        {"changes": {x509.SubjectAlternativeName: None}},
    ),
    "no URI": (
        RENEW,
        "0 URIs: exactly one is the identity",
        {"changes": {x509.SubjectAlternativeName: (alternative("a"), False)}},
    ),
    "two URIs": (
        RENEW,
        "2 URIs: exactly one is the identity",
        {
            "changes": {
                x509.SubjectAlternativeName: (alternative("a", uris=(*OURS, "urn:x:y")), False)
            }
        },
    ),
    "critical names": (
        RENEW,
        "alternative names are critical",
        {"changes": {x509.SubjectAlternativeName: (alternative("a", uris=OURS), True)}},
    ),
    "e-mail": (
        RENEW,
        "neither DNS, IP nor URI",
        {
            "changes": {
                x509.SubjectAlternativeName: (
                    x509.SubjectAlternativeName(
                        [*alternative("a", uris=OURS), x509.RFC822Name("me@plant.example")]
                    ),
                    False,
                )
            }
        },
    ),
    "no constraints": (
        RENEW,
        "basic constraints are missing",
        {"changes": {x509.BasicConstraints: None}},
    ),
    "constraints not critical": (
        RENEW,
        "or not critical",
        {"changes": {x509.BasicConstraints: (x509.BasicConstraints(False, None), False)}},
    ),
    "no usage": (RENEW, "not exactly digitalSignature", {"changes": {x509.KeyUsage: None}}),
    "more usage": (
        RENEW,
        "not exactly digitalSignature",
        {"changes": {x509.KeyUsage: (usage("digital_signature", "key_encipherment"), True)}},
    ),
    "other usage": (
        BROKEN,
        "lacks digitalSignature",
        {"changes": {x509.KeyUsage: (usage("key_encipherment"), True)}},
    ),
    "usage not critical": (
        RENEW,
        "not exactly digitalSignature, critical",
        {"changes": {x509.KeyUsage: (usage("digital_signature"), False)}},
    ),
    "only servers": (
        BROKEN,
        "lacks clientAuth",
        {"changes": {x509.ExtendedKeyUsage: (x509.ExtendedKeyUsage([Purpose.SERVER_AUTH]), False)}},
    ),
    "only clients": (
        BROKEN,
        "lacks serverAuth",
        {"changes": {x509.ExtendedKeyUsage: (x509.ExtendedKeyUsage([Purpose.CLIENT_AUTH]), False)}},
    ),
    "more purposes": (
        RENEW,
        "more than serverAuth and clientAuth",
        {
            "changes": {
                x509.ExtendedKeyUsage: (
                    x509.ExtendedKeyUsage([*_profile.PURPOSES, Purpose.CODE_SIGNING]),
                    False,
                )
            }
        },
    ),
    "unknown critical extension": (
        BROKEN,
        "critical extension 1.2.3.4 is unknown",
        {
            "changes": {
                x509.UnrecognizedExtension: (
                    x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00"),
                    True,
                )
            }
        },
    ),
}


@pytest.mark.parametrize("case", DEVIATIONS)
def test_deviation_of_a_device_from_the_profile_is_found(case):
    severity, text, changes = DEVIATIONS[case]

    findings = check(altered(DEVICE.certificate, **changes))

    found = only(findings)
    assert found[:2] == (severity, "profile")
    assert re.search(text, found[2])
    assert found[2].endswith("renew it")


def test_unaltered_copy_has_no_deviations():
    assert bad(check(altered(DEVICE.certificate))) == []


CA_DEVIATIONS: dict[str, tuple[Severity, str, Extensions]] = {
    "pathlen": (
        RENEW,
        "allows further CAs",
        {x509.BasicConstraints: (x509.BasicConstraints(True, None), True)},
    ),
    "constraints not critical": (
        BROKEN,
        "basic constraints are not critical",
        {x509.BasicConstraints: (x509.BasicConstraints(True, 0), False)},
    ),
    "no usage": (BROKEN, "lacks keyCertSign or cRLSign", {x509.KeyUsage: None}),
    "no CRLs": (
        BROKEN,
        "lacks keyCertSign or cRLSign",
        {x509.KeyUsage: (usage("key_cert_sign"), True)},
    ),
    "more usage": (
        RENEW,
        "has more than it needs",
        {x509.KeyUsage: (usage("key_cert_sign", "crl_sign", "digital_signature"), True)},
    ),
    "no SKI": (BROKEN, "no subject key identifier", {x509.SubjectKeyIdentifier: None}),
    "name constraints not critical": (
        BROKEN,
        "name constraints are not critical",
        {
            x509.NameConstraints: (
                x509.NameConstraints([x509.DNSName("plant.example")], None),
                False,
            )
        },
    ),
}


@pytest.mark.parametrize("case", CA_DEVIATIONS)
def test_deviation_of_a_ca_from_the_profile_is_found(case):
    severity, text, changes = CA_DEVIATIONS[case]

    found = only(pki.check_ca(altered(ROOT.certificate, changes), now=NOW))

    assert found[:2] == (severity, "profile")
    assert text in found[2]
    assert found[2].endswith("rotate the CA")


def test_signature_with_sha1_is_broken():
    # Our own library refuses to make such a thing.
    command = (
        "openssl req -x509 -sha1 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=x"
    )
    made = subprocess.run(
        [*command.split(), "-keyout", "/dev/null"], capture_output=True, check=True, timeout=30
    )

    findings = pki.check_ca(made.stdout, now=NOW)

    assert any("signed with sha1, which can be forged" in text for _, _, text in bad(findings))


# --- revocation -----------------------------------------------------------------------------------


make_crl = functools.partial(pki.make_crl, CA, number=1, now=NOW)


def test_revoked_device_is_broken():
    serial = pki.inspect(DEVICE.certificate).serial
    crl = make_crl([pki.Revocation(serial, NOW)])

    assert only(check(crl=crl)) == (
        BROKEN,
        "revoked",
        "was revoked on 2026-03-01 12:00 UTC: issue another, with a new key",
    )


def test_newest_of_several_revocation_lists_counts():
    serial = pki.inspect(DEVICE.certificate).serial
    lists = make_crl([]) + make_crl([pki.Revocation(serial, NOW)], number=2)

    assert only(check(crl=lists))[:2] == (BROKEN, "revoked")


def test_each_generation_needs_its_revocation_list():
    other = pki.make_root("plant", now=NOW)
    foreign = pki.make_crl(pki.load_authority(other.certificate, other.key), [], number=1, now=NOW)

    severity, topic, text = only(check(crl=foreign))

    assert (severity, topic) == (BROKEN, "crl")
    assert f"there is no revocation list of {CA.info.subject}" in text
    assert bad(check(crl=foreign + make_crl([]))) == []


def test_forged_revocation_list_is_broken():
    subject = x509.load_pem_x509_certificate(ROOT.certificate).subject
    forged = (
        x509.CertificateRevocationListBuilder(subject, NOW, NOW + DAY)
        .add_extension(x509.CRLNumber(9), critical=False)
        .sign(ec.generate_private_key(ec.SECP384R1()), hashes.SHA384())
        .public_bytes(Encoding.PEM)
    )

    severity, topic, text = only(check(crl=forged))

    assert (severity, topic) == (BROKEN, "crl")
    assert "not signed by the CA" in text


@pytest.mark.parametrize(
    ("now", "severity", "text"),
    [
        (NOW - dt.timedelta(hours=1), BROKEN, "is from the future: check the clock"),
        (NOW + 59 * DAY, GOOD, "is good until 2026-05-30"),
        (NOW + 61 * DAY, RENEW, "is stale in 29 days: make a new one"),
        (NOW + 91 * DAY, BROKEN, "is stale since 2026-05-30 12:00 UTC: make a new one"),
    ],
)
def test_age_of_a_revocation_list(now, severity, text):
    for findings in (
        check(crl=make_crl([]), now=now),
        pki.check_ca(ROOT.certificate, crl=make_crl([]), now=now),
    ):
        (finding,) = [item for item in findings if item.topic == "crl"]
        assert finding.severity is severity
        assert text in finding.text


# --- anything at all ------------------------------------------------------------------------------

FILES = (
    DEVICE.certificate,
    ROOT.certificate,
    DEVICE.key,
    make_crl([pki.Revocation("a1", NOW)]),
    pki.make_request("shop", NAMES, DEVICE.key),
)
READERS = (
    pki.inspect,
    pki.split,
    pki.bundle,
    pki.read_request,
    pki.read_crl,
    pki.public_key,
    pki.is_encrypted,
    pki.kind_of,
)


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A good file in which a byte of the DER inside of it is another."""
    header, *body, footer = draw(st.sampled_from(FILES)).splitlines()
    der = bytearray(base64.b64decode(b"".join(body)))
    for _ in range(draw(st.integers(1, 3))):
        der[draw(st.integers(0, len(der) - 1))] = draw(st.integers(0, 255))
    return b"\n".join([header, base64.encodebytes(der).strip(), footer])


@pytest.mark.filterwarnings("ignore:.*:cryptography.utils.CryptographyDeprecationWarning")
@given(damaged() | st.binary(max_size=40))
def test_damaged_files_are_read_or_refused(data):
    for reader in READERS:
        with contextlib.suppress(pki.PkiError):
            reader(data)


@pytest.mark.filterwarnings("ignore:.*:cryptography.utils.CryptographyDeprecationWarning")
@given(damaged())
def test_check_never_raises(data):
    for certificate, ca, key, crl in (
        (data, ROOT.certificate, None, None),
        (DEVICE.certificate, data, None, None),
        (DEVICE.certificate, ROOT.certificate, data, data),
        (data, data, data, data),
    ):
        assert pki.check(certificate, ca, key=key, crl=crl, hosts=["a"], now=NOW)
    assert pki.check_ca(data, key=data, crl=data, now=NOW)
