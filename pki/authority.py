"""What a certificate authority does, as pure functions: PEM and small frozen values in and out.

Create a root, issue key and certificate, read and sign a certificate signing request (CSR), renew,
build a revocation list (CRL), inspect, check. Knows no files, prints nothing, and reads the clock
only where *now* (a datetime with time zone) is not given. Whatever is wrong raises
:class:`PkiError`; its message says what and where, and what to do, and never holds a passphrase.

>>> root = make_root("Plant", passphrase="a secret")
>>> authority = load_authority(root.certificate, root.key, "a secret")
>>> device = issue(authority, "shop", parse_names(["shop.example.org", "10.0.0.3"]))
>>> print(inspect(device.certificate).names)
DNS:shop.example.org, IP:10.0.0.3, URI:spiffe://plant/shop
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import secrets
from collections.abc import Iterable

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from pki import _check, _keys, _names, _pem, _profile, _read
from pki._check import check, check_ca, worst
from pki._keys import encrypt_key, is_encrypted, make_key, public_key
from pki._names import check_name, identity, parse_names
from pki._pem import kind_of
from pki._read import bundle, inspect, parse_serial, read_crl, read_request, split
from pki._values import (
    CA_KEY_TYPE,
    DEVICE_KEY_TYPE,
    KEY_TYPES,
    REASONS,
    CertificateInfo,
    CrlInfo,
    Finding,
    KeyAndCertificate,
    KeyType,
    Names,
    PkiError,
    Reason,
    Request,
    Revocation,
    Severity,
)

__all__ = [
    "CA_DAYS",
    "CA_KEY_TYPE",
    "CRL_DAYS",
    "DEVICE_DAYS",
    "DEVICE_KEY_TYPE",
    "KEY_TYPES",
    "REASONS",
    "Authority",
    "CertificateInfo",
    "CrlInfo",
    "Finding",
    "KeyAndCertificate",
    "KeyType",
    "Names",
    "PkiError",
    "Reason",
    "Request",
    "Revocation",
    "Severity",
    "bundle",
    "certify",
    "check",
    "check_ca",
    "check_name",
    "check_root",
    "encrypt_key",
    "identity",
    "inspect",
    "is_encrypted",
    "issue",
    "kind_of",
    "load_authority",
    "make_crl",
    "make_key",
    "make_request",
    "make_root",
    "parse_names",
    "parse_serial",
    "public_key",
    "read_crl",
    "read_request",
    "renew",
    "sign",
    "split",
    "worst",
]

CA_DAYS = 3650
"""Default for a CA."""
DEVICE_DAYS = _profile.DEVICE_LIMIT.days
"""Default and maximum for a device."""
CRL_DAYS = 90
"""Default for a revocation list."""

_CA_DAYS_LIMIT = 7300
_CRL_DAYS_LIMIT = 3650
_CRL_NUMBER_LIMIT = 1 << 159


@dataclasses.dataclass(frozen=True, slots=True)
class Authority:
    """A CA that can sign: :func:`load_authority` makes it.

    Load it once and use it often: decrypting its key takes a tenth of a second.
    """

    certificate: bytes
    """PEM."""
    name: str
    """What all generations of a CA share, the organisation in what it signs."""
    info: CertificateInfo
    _cert: x509.Certificate = dataclasses.field(repr=False, compare=False)
    _key: _keys.PrivateKey = dataclasses.field(repr=False, compare=False)


# --- the CA ---------------------------------------------------------------------------------------


def make_root(
    name: str,
    *,
    key_type: KeyType = CA_KEY_TYPE,
    days: int = CA_DAYS,
    permit_dns: Iterable[str] = (),
    permit_ips: Iterable[str] = (),
    passphrase: str | None = None,
    now: dt.datetime | None = None,
) -> KeyAndCertificate:
    """Create a root, or the next generation of one.

    The name is its organisation (O). Its common name (CN) is unique.

    Parameters:
        name: of 1 to 55 characters, with at least one Latin letter or digit.
        days: 1 to 7300.
        permit_dns: if given, DNS names of devices must be these or below these.
        permit_ips: if given, addresses of devices must be in these networks (``10.0.0.0/8``; of
            both families, or the other one is forbidden) or be these addresses.
        passphrase: encrypts the private key.

    Raises:
        PkiError: a parameter is bad.
    """
    check_root(name, permit_dns := tuple(permit_dns), permit_ips := tuple(permit_ips))
    _check_days(days, _CA_DAYS_LIMIT)
    dns = [_names.parse_dns_constraint(text) for text in permit_dns]
    networks = [_names.parse_ip_constraint(text) for text in permit_ips]
    key = _keys.generate(key_type)
    serialised = _keys.serialised(key, passphrase)
    certificate = _profile.build_root(
        _profile.subject(name, f"{name} {secrets.token_hex(4)}"),
        key,
        _profile.validity(_aware(now), days),
        dns,
        networks,
    )
    return KeyAndCertificate(serialised, _pem.pem(certificate))


def check_root(name: str, permit_dns: Iterable[str] = (), permit_ips: Iterable[str] = ()) -> None:
    """Check the name and the constraints that a root is to have, before it is made.

    Raises:
        PkiError: one is bad.
    """
    check_name(name, limit=_names.CA_NAME_LIMIT, what="name of the CA")
    _names.trust_domain(name)
    for text in permit_dns:
        _names.parse_dns_constraint(text)
    for text in permit_ips:
        _names.parse_ip_constraint(text)


def load_authority(certificate: bytes, key: bytes, passphrase: str | None = None) -> Authority:
    """Return the CA, ready to sign.

    Raises:
        PkiError: a part cannot be read, it is no root, the two do not belong together; the
            passphrase is wrong, missing, or not needed.
    """
    cert = _pem.certificate(certificate, what="CA certificate")
    name = _read.organisation(cert.subject)
    usage, _ = _profile.extension(cert, x509.KeyUsage)
    ski, _ = _profile.extension(cert, x509.SubjectKeyIdentifier)
    is_root = (
        _profile.is_ca(cert)
        and usage is not None
        and usage.key_cert_sign
        and usage.crl_sign
        and ski is not None
        and cert.subject == cert.issuer
        and name != ""
    )
    if not is_root:
        msg = (
            f"certificate of {_read.text_of(cert.subject)} is no root that this can sign with: "
            "make one with `init`"
        )
        raise PkiError(msg)
    private = _keys.load(key, passphrase)
    if _keys.spki(private.public_key()) != _keys.spki(cert.public_key()):
        msg = (
            f"private key does not belong to the certificate of {_read.text_of(cert.subject)}: put "
            "the right one of them there"
        )
        raise PkiError(msg)
    return Authority(_pem.pem(cert), name, _read.info_of(cert), cert, private)


# --- certificates of devices ----------------------------------------------------------------------


def issue(
    authority: Authority,
    name: str,
    names: Names,
    *,
    key_type: KeyType = DEVICE_KEY_TYPE,
    passphrase: str | None = None,
    days: int = DEVICE_DAYS,
    now: dt.datetime | None = None,
) -> KeyAndCertificate:
    """Make a key and its certificate in one step.

    Parameters, errors: as :func:`make_key` and :func:`certify`.
    """
    key = _keys.generate(key_type)
    serialised = _keys.serialised(key, passphrase)
    certificate = _certify(authority, name, names, key.public_key(), days, _aware(now))
    return KeyAndCertificate(serialised, certificate)


def certify(
    authority: Authority,
    name: str,
    names: Names,
    public_key: bytes,
    *,
    days: int = DEVICE_DAYS,
    now: dt.datetime | None = None,
) -> bytes:
    """Issue a certificate for a public key (PEM) and return it (PEM).

    It begins 5 minutes in the past, and ends with the CA where that is earlier.

    Parameters:
        names: without a URI, the identity ``spiffe://CA-NAME/NAME`` is added.
        days: 1 to 365.

    Raises:
        PkiError: a bad name; neither DNS name nor address; a name that the CA's constraints do not
            permit; a SPIFFE identity of another CA; a weak key, or the CA's own; bad *days*; the CA
            has expired.
    """
    key = _keys.load_public(public_key)
    return _certify(authority, name, names, key, days, _aware(now))


def _certify(
    authority: Authority,
    name: str,
    names: Names,
    key: _keys.PublicKey,
    days: int,
    now: dt.datetime,
) -> bytes:
    ca = authority._cert  # noqa: SLF001 (the value and its functions are one)
    check_name(name)
    _check_days(days, DEVICE_DAYS)
    if _keys.spki(key) == _keys.spki(ca.public_key()):
        msg = f"public key of {name!r} is the CA's own: make another for the device"
        raise PkiError(msg)
    complete = _complete(authority, name, names)
    if problems := _check.violations(complete, name, ca):
        msg = f"{'; '.join(problems)}: choose other names for {name!r}"
        raise PkiError(msg)
    subject = _profile.subject(authority.name, name)
    between = _validity(authority, days, now)
    cert = _profile.build_device(ca, authority._key, subject, complete, key, between)  # noqa: SLF001
    return _pem.pem(cert)


def _complete(authority: Authority, name: str, names: Names) -> Names:
    """Return names as they go into a certificate, with an identity."""
    names = parse_names(dns=names.dns, ips=map(str, names.ips), uris=names.uris)
    if not names.dns and not names.ips:
        msg = (
            f"{name!r} has neither a DNS name nor an address, by which others could verify it: "
            "give one (--dns, --ip)"
        )
        raise PkiError(msg)
    own = identity(authority.name, name)
    if not names.uris:
        return dataclasses.replace(names, uris=(own,))
    domain = own[: own.index("/", len("spiffe://")) + 1]
    if names.uris[0].startswith("spiffe:") and not names.uris[0].startswith(domain):
        msg = (
            f"identity {names.uris[0]} is not one of this CA, whose identities begin with {domain}:"
            f" ask for {own}, or for none, and it is added"
        )
        raise PkiError(msg)
    return names


def _validity(authority: Authority, days: int, now: dt.datetime) -> tuple[dt.datetime, dt.datetime]:
    ca = authority.info
    if not ca.not_before <= now <= ca.not_after:
        msg = (
            f"CA {ca.subject} is valid from {ca.not_before:%Y-%m-%d %H:%M} to "
            f"{ca.not_after:%Y-%m-%d %H:%M} UTC, and now it is {now:%Y-%m-%d %H:%M}: check the "
            "clock, or rotate the CA"
        )
        raise PkiError(msg)
    first, last = _profile.validity(now, days)
    return max(first, ca.not_before), min(last, ca.not_after)


def make_request(name: str, names: Names, key: bytes, passphrase: str | None = None) -> bytes:
    """Return a certificate signing request (PEM) for a private key.

    Parameters:
        names: may lack the URI: the CA adds ``spiffe://CA-NAME/NAME`` then.

    Raises:
        PkiError: a bad name, no names, or the key cannot be read.
    """
    check_name(name)
    names = parse_names(dns=names.dns, ips=map(str, names.ips), uris=names.uris)
    if not names.dns and not names.ips:
        msg = f"{name!r} has neither a DNS name nor an address: give one (--dns, --ip)"
        raise PkiError(msg)
    private = _keys.load(key, passphrase)
    request = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)]))
        .add_extension(_profile.alternative_names(names), critical=False)
        .sign(private, _keys.digest_for(private))
    )
    return _pem.pem(request)


def sign(
    authority: Authority,
    csr: bytes,
    *,
    name: str | None = None,
    days: int = DEVICE_DAYS,
    now: dt.datetime | None = None,
) -> bytes:
    """Sign a certificate signing request (PEM): only key and alternative names are copied.

    Without a URI among them, the identity ``spiffe://CA-NAME/NAME`` is added.

    Parameters:
        name: the common name, instead of the one that the request has.

    Raises:
        PkiError: as :func:`read_request` and :func:`certify`.
    """
    loaded, key = _read.load_request(csr)
    request = _read.request_of(loaded)
    name = request.name if name is None else name
    return _certify(authority, name, request.names, key, days, _aware(now))


def renew(
    authority: Authority,
    certificate: bytes,
    *,
    former: bytes | None = None,
    public_key: bytes | None = None,
    days: int = DEVICE_DAYS,
    now: dt.datetime | None = None,
) -> bytes:
    """Return a new certificate (PEM) for the key and the names of an old one.

    Whether the old one was revoked is for the caller to know.

    Parameters:
        former: former generations of the CA (PEM, any number), whose certificates are renewed too.
        public_key: a new key (PEM), instead of the old one.

    Raises:
        PkiError: neither this CA nor a former one has issued it; and as :func:`certify`.
    """
    old = _pem.certificate(certificate)
    _check.find_issuer(old, authority.certificate + (former or b""))
    info = _read.info_of(old)
    key = (
        _keys.strong(old.public_key(), what="key of the certificate")
        if public_key is None
        else _keys.load_public(public_key)
    )
    return _certify(authority, info.name, info.names, key, days, _aware(now))


# --- revocation -----------------------------------------------------------------------------------


def make_crl(
    authority: Authority,
    revoked: Iterable[Revocation],
    *,
    number: int,
    days: int = CRL_DAYS,
    now: dt.datetime | None = None,
) -> bytes:
    """Return a revocation list (PEM).

    Parameters:
        number: of the list; has to be greater than the last one's.
        days: 1 to 3650; then it is stale, and who checks it refuses all certificates of the CA.

    Raises:
        PkiError: a parameter is bad, or a serial number is there twice.
    """
    _check_days(days, _CRL_DAYS_LIMIT)
    if not 0 < number < _CRL_NUMBER_LIMIT:
        msg = f"number {number} of the revocation list is not positive: count from 1"
        raise PkiError(msg)
    time = _aware(now).replace(microsecond=0)
    ca, key = authority._cert, authority._key  # noqa: SLF001 (the value and its functions are one)
    ski = ca.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    aki = x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(ski)
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(ca.subject)
        .last_update(time - _profile.BACKDATED)
        .next_update(time + dt.timedelta(days=days))
        .add_extension(x509.CRLNumber(number), critical=False)
        .add_extension(aki, critical=False)
    )
    seen: set[str] = set()
    for revocation in revoked:
        serial = parse_serial(revocation.serial)
        if serial in seen:
            msg = f"serial number {serial} is to be revoked twice: once is enough"
            raise PkiError(msg)
        seen.add(serial)
        builder = builder.add_revoked_certificate(_entry(serial, revocation))
    return builder.sign(key, _keys.digest_for(key)).public_bytes(Encoding.PEM)


def _entry(serial: str, revocation: Revocation) -> x509.RevokedCertificate:
    if revocation.reason not in REASONS:
        msg = f"reason {revocation.reason!r} is unknown: one of {', '.join(REASONS)}"
        raise PkiError(msg)
    builder = (
        x509.RevokedCertificateBuilder()
        .serial_number(int(serial, 16))
        .revocation_date(_aware(revocation.when))
    )
    # RFC 5280, 5.3.1: no reason rather than "unspecified".
    if revocation.reason != "unspecified":
        reason = x509.CRLReason(x509.ReasonFlags(revocation.reason))
        builder = builder.add_extension(reason, critical=False)
    return builder.build()


# --- parameters -----------------------------------------------------------------------------------


def _aware(time: dt.datetime | None) -> dt.datetime:
    if time is None:
        return dt.datetime.now(dt.UTC)
    if time.tzinfo is None:
        msg = f"time {time} has no time zone: give one, like datetime.now(UTC)"
        raise PkiError(msg)
    return time.astimezone(dt.UTC)


def _check_days(days: int, limit: int) -> None:
    if not 1 <= days <= limit:
        msg = f"{days} days are not possible: 1 to {limit}"
        raise PkiError(msg)
