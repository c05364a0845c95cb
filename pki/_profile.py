r"""The profile of the certificates, in both directions: how they are made, and what deviates.

Chosen so that OpenSSL's strict mode, Python 3.13's default contexts, `cryptography`, Go, Java and
GnuTLS all accept them.

==================== =============================== ==============================================
\                     CA                              device
==================== =============================== ==============================================
key                  P-384 (or RSA >= 3072, P-256,   P-256 (or P-384, RSA >= 3072, Ed25519)
                     Ed25519)
serial               random, 159 bits                same
subject              O + CN, unique per generation   O (name of the CA) + CN, not empty
basicConstraints     critical, CA:TRUE, pathlen 0    critical, CA:FALSE
keyUsage             critical, keyCertSign, cRLSign  critical, digitalSignature
extendedKeyUsage     none                            serverAuth, clientAuth
subjectKeyIdentifier yes                             yes
authorityKeyIdent.   none                            yes
subjectAltName       none                            DNS + IP + exactly one URI, not critical
nameConstraints      on request, critical            none
validity             10 years                        at most 1 year, never past its CA
==================== =============================== ==============================================

Both begin 5 minutes in the past, for clocks that are behind.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, ExtensionOID, NameOID

from pki._keys import PrivateKey, PublicKey, digest_for, kind, strong
from pki._values import IPNetwork, Names, PkiError, Severity

BACKDATED = dt.timedelta(minutes=5)
DEVICE_LIMIT = dt.timedelta(days=365)
PURPOSES = (ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH)

_SECOND = dt.timedelta(seconds=1)
_SERIAL_BITS = 160
_RANDOM_BITS = 64
"""Serials with fewer bits than this are hardly random."""
_LEGACY_RSA_BITS = 2048
_E = TypeVar("_E", bound=x509.ExtensionType)


def _usage(**given: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=given.get("digital_signature", False),
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=given.get("key_cert_sign", False),
        crl_sign=given.get("crl_sign", False),
        encipher_only=False,
        decipher_only=False,
    )


CA_USAGE = _usage(key_cert_sign=True, crl_sign=True)
DEVICE_USAGE = _usage(digital_signature=True)


# --- making ---------------------------------------------------------------------------------------


def subject(organisation: str, common_name: str) -> x509.Name:
    """Return a subject: who, of which CA."""
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, organisation),
            x509.NameAttribute(NameOID.COMMON_NAME, common_name),
        ]
    )


def validity(now: dt.datetime, days: int) -> tuple[dt.datetime, dt.datetime]:
    """Return first and last second of a certificate that is valid for so many days."""
    first = now.replace(microsecond=0) - BACKDATED
    return first, first + dt.timedelta(days=days) - _SECOND


def build_root(
    name: x509.Name,
    key: PrivateKey,
    between: tuple[dt.datetime, dt.datetime],
    dns: Sequence[str],
    networks: Sequence[IPNetwork],
) -> x509.Certificate:
    """Return a self-signed certificate of a CA."""
    public = key.public_key()
    builder = (
        _builder(name, name, public, between)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(CA_USAGE, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
    )
    if dns or networks:
        permitted = [*map(x509.DNSName, dns), *map(x509.IPAddress, networks)]
        builder = builder.add_extension(x509.NameConstraints(permitted, None), critical=True)
    return builder.sign(key, digest_for(key))


def build_device(
    ca: x509.Certificate,
    ca_key: PrivateKey,
    name: x509.Name,
    names: Names,
    public: PublicKey,
    between: tuple[dt.datetime, dt.datetime],
) -> x509.Certificate:
    """Return a certificate of a device."""
    ca_ski = ca.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    return (
        _builder(ca.subject, name, public, between)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(DEVICE_USAGE, critical=True)
        .add_extension(x509.ExtendedKeyUsage(PURPOSES), critical=False)
        .add_extension(alternative_names(names), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(ca_ski), critical=False
        )
        .sign(ca_key, digest_for(ca_key))
    )


def _builder(
    issuer: x509.Name,
    name: x509.Name,
    public: PublicKey,
    between: tuple[dt.datetime, dt.datetime],
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .issuer_name(issuer)
        .subject_name(name)
        .public_key(public)
        .serial_number(x509.random_serial_number())  # 159 random bits
        .not_valid_before(between[0])
        .not_valid_after(between[1])
    )


def alternative_names(names: Names) -> x509.SubjectAlternativeName:
    """Return names as an extension."""
    return x509.SubjectAlternativeName(
        [
            *map(x509.DNSName, names.dns),
            *map(x509.IPAddress, names.ips),
            *map(x509.UniformResourceIdentifier, names.uris),
        ]
    )


# --- checking -------------------------------------------------------------------------------------


def extension(cert: x509.Certificate, kind: type[_E]) -> tuple[_E | None, bool]:
    """Return an extension, and whether it is critical; None if it is not there."""
    try:
        found = cert.extensions.get_extension_for_class(kind)
    except x509.ExtensionNotFound:
        return None, False
    return found.value, found.critical


def is_ca(cert: x509.Certificate) -> bool:
    """Whether the certificate may sign others."""
    constraints, _ = extension(cert, x509.BasicConstraints)
    return constraints is not None and constraints.ca


Deviation = tuple[Severity, str]
_Rule = Callable[[x509.Certificate], Iterator[Deviation]]


def deviations(cert: x509.Certificate) -> list[Deviation]:
    """Return in what a certificate differs from the profile.

    BROKEN is what strict verifiers refuse, RENEW what the next certificate does better.
    """
    rules = _COMMON + (_FOR_CA if is_ca(cert) else _FOR_DEVICE)
    return [deviation for rule in rules for deviation in rule(cert)]


def _version(cert: x509.Certificate) -> Iterator[Deviation]:
    if cert.version is not x509.Version.v3:
        yield Severity.BROKEN, "it is no X.509 version 3"


def _serial(cert: x509.Certificate) -> Iterator[Deviation]:
    if not 0 < cert.serial_number < 1 << _SERIAL_BITS:
        yield Severity.BROKEN, "its serial number is not positive, or longer than 20 bytes"
    elif cert.serial_number.bit_length() < _RANDOM_BITS:
        yield Severity.RENEW, "its serial number is too short to be random"


def _subject(cert: x509.Certificate) -> Iterator[Deviation]:
    if not cert.subject.get_attributes_for_oid(NameOID.COMMON_NAME):
        yield Severity.RENEW, "its subject has no common name"


def _key(cert: x509.Certificate) -> Iterator[Deviation]:
    public = cert.public_key()
    try:
        strong(public, what="")
    except PkiError:
        weak = not isinstance(public, rsa.RSAPublicKey) or public.key_size < _LEGACY_RSA_BITS
        yield Severity.BROKEN if weak else Severity.RENEW, f"its key ({kind(public)}) is too weak"


def _signature(cert: x509.Certificate) -> Iterator[Deviation]:
    try:
        digest = cert.signature_hash_algorithm
    except UnsupportedAlgorithm:
        yield Severity.BROKEN, "it is signed with an unknown algorithm"
        return
    if isinstance(digest, hashes.MD5 | hashes.SHA1):
        yield Severity.BROKEN, f"it is signed with {digest.name}, which can be forged"


def _unknown_extensions(cert: x509.Certificate) -> Iterator[Deviation]:
    known = {
        ExtensionOID.BASIC_CONSTRAINTS,
        ExtensionOID.KEY_USAGE,
        ExtensionOID.EXTENDED_KEY_USAGE,
        ExtensionOID.SUBJECT_ALTERNATIVE_NAME,
        ExtensionOID.NAME_CONSTRAINTS,
    }
    for item in cert.extensions:
        if item.critical and item.oid not in known:
            yield Severity.BROKEN, f"its critical extension {item.oid.dotted_string} is unknown"


def _ski(cert: x509.Certificate) -> Iterator[Deviation]:
    if extension(cert, x509.SubjectKeyIdentifier)[0] is None:
        severity = Severity.BROKEN if is_ca(cert) else Severity.RENEW
        yield severity, "it has no subject key identifier"


def _ca_constraints(cert: x509.Certificate) -> Iterator[Deviation]:
    value, critical = extension(cert, x509.BasicConstraints)
    if not critical:
        yield Severity.BROKEN, "its basic constraints are not critical"
    if value is not None and value.path_length != 0:
        yield Severity.RENEW, "it allows further CAs below itself (pathlen is not 0)"


def _ca_usage(cert: x509.Certificate) -> Iterator[Deviation]:
    value, critical = extension(cert, x509.KeyUsage)
    if value is None or not (value.key_cert_sign and value.crl_sign):
        yield Severity.BROKEN, "its key usage lacks keyCertSign or cRLSign"
    elif value != CA_USAGE or not critical:
        yield Severity.RENEW, "its key usage is not critical, or has more than it needs"


def _name_constraints(cert: x509.Certificate) -> Iterator[Deviation]:
    value, critical = extension(cert, x509.NameConstraints)
    if value is not None and not critical:
        yield Severity.BROKEN, "its name constraints are not critical"


def _device_constraints(cert: x509.Certificate) -> Iterator[Deviation]:
    value, critical = extension(cert, x509.BasicConstraints)
    if value is None or not critical:
        yield Severity.RENEW, "its basic constraints are missing or not critical"


def _device_usage(cert: x509.Certificate) -> Iterator[Deviation]:
    value, critical = extension(cert, x509.KeyUsage)
    if value is not None and not value.digital_signature:
        yield Severity.BROKEN, "its key usage lacks digitalSignature"
    elif value != DEVICE_USAGE or not critical:
        yield Severity.RENEW, "its key usage is not exactly digitalSignature, critical"


def _purposes(cert: x509.Certificate) -> Iterator[Deviation]:
    value, _ = extension(cert, x509.ExtendedKeyUsage)
    found = set(value or ())
    for purpose, name in zip(PURPOSES, ("serverAuth", "clientAuth"), strict=True):
        if purpose not in found:
            yield Severity.BROKEN, f"its extended key usage lacks {name}"
    if found - set(PURPOSES):
        yield Severity.RENEW, "its extended key usage has more than serverAuth and clientAuth"


def _alternative_names(cert: x509.Certificate) -> Iterator[Deviation]:
    value, critical = extension(cert, x509.SubjectAlternativeName)
    if value is None:
        yield (
            Severity.BROKEN,
            "it has no alternative names: the common name alone counts for nothing",
        )
        return
    uris = value.get_values_for_type(x509.UniformResourceIdentifier)
    if len(uris) != 1:
        yield Severity.RENEW, f"it has {len(uris)} URIs: exactly one is the identity"
    if critical:
        yield Severity.RENEW, "its alternative names are critical"
    if not all(
        isinstance(name, x509.DNSName | x509.IPAddress | x509.UniformResourceIdentifier)
        for name in value
    ):
        yield Severity.RENEW, "it has alternative names that are neither DNS, IP nor URI"


def _aki(cert: x509.Certificate) -> Iterator[Deviation]:
    if extension(cert, x509.AuthorityKeyIdentifier)[0] is None:
        yield Severity.BROKEN, "it has no authority key identifier"


def _length(cert: x509.Certificate) -> Iterator[Deviation]:
    if cert.not_valid_after_utc + _SECOND - cert.not_valid_before_utc > DEVICE_LIMIT:
        yield Severity.RENEW, f"it is valid for more than {DEVICE_LIMIT.days} days"


_COMMON: tuple[_Rule, ...] = (
    _version,
    _serial,
    _subject,
    _key,
    _signature,
    _unknown_extensions,
    _ski,
)
_FOR_CA: tuple[_Rule, ...] = (_ca_constraints, _ca_usage, _name_constraints)
_FOR_DEVICE: tuple[_Rule, ...] = (
    _device_constraints,
    _device_usage,
    _purposes,
    _alternative_names,
    _aki,
    _length,
)
