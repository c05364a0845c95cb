"""What certificates, signing requests and revocation lists say, as values.

What is read may come from anybody: text from it is made printable, and malformed input raises
:class:`~pki.authority.PkiError`.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from typing import cast

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.x509.oid import ExtensionOID, NameOID

from pki import _keys, _pem, _profile
from pki._names import parse_names, printable
from pki._values import CertificateInfo, CrlInfo, Names, PkiError, Reason, Request, Revocation

_SERIAL_DIGITS = 40


# --- serial numbers -------------------------------------------------------------------------------


def parse_serial(text: str) -> str:
    """Return a serial number (hex; also upper case, with colons, after ``0x``) in normal form.

    >>> parse_serial("0A:1B")
    'a1b'

    Raises:
        PkiError: it is no hexadecimal number of at most 20 bytes.
    """
    digits = text.strip().lower().removeprefix("0x").replace(":", "").lstrip("0")
    if not digits or len(digits) > _SERIAL_DIGITS or digits.strip("0123456789abcdef"):
        msg = (
            f"serial number {printable(text)!r} is none: expected 1 to 40 hexadecimal digits, as "
            "`list` and `inspect` show them"
        )
        raise PkiError(msg)
    return digits


def serial_of(number: int) -> str:
    """Return a serial number in normal form."""
    return f"{number:x}"


# --- certificates ---------------------------------------------------------------------------------


def inspect(certificate: bytes) -> CertificateInfo:
    """Return what a certificate (PEM, exactly one) says.

    Raises:
        PkiError: it cannot be read.
    """
    return info_of(_pem.certificate(certificate))


def info_of(cert: x509.Certificate) -> CertificateInfo:
    """Return what a certificate says."""
    with _pem.reading("certificate"):
        public = cert.public_key()
        return CertificateInfo(
            name=printable(common_name(cert.subject)),
            subject=text_of(cert.subject),
            issuer=text_of(cert.issuer),
            names=names_of(cert),
            key=_keys.kind(public),
            serial=serial_of(cert.serial_number),
            not_before=cert.not_valid_before_utc,
            not_after=cert.not_valid_after_utc,
            fingerprint=cert.fingerprint(hashes.SHA256()).hex(),
            key_fingerprint=_keys.fingerprint(public),
            is_ca=_profile.is_ca(cert),
        )


def text_of(name: x509.Name) -> str:
    """Return a subject for people."""
    return printable(name.rfc4514_string())


def common_name(name: x509.Name) -> str:
    """Return the first common name of a subject; empty if there is none."""
    return next(_texts(name, NameOID.COMMON_NAME), "")


def organisation(name: x509.Name) -> str:
    """Return the first organisation of a subject; empty if there is none."""
    return next(_texts(name, NameOID.ORGANIZATION_NAME), "")


def _texts(name: x509.Name, oid: x509.ObjectIdentifier) -> Iterator[str]:
    for attribute in name.get_attributes_for_oid(oid):
        if isinstance(attribute.value, str):
            yield attribute.value


def names_of(cert: x509.Certificate) -> Names:
    """Return the alternative names of a certificate, as they are there."""
    value, _ = _profile.extension(cert, x509.SubjectAlternativeName)
    if value is None:
        return Names()
    return Names(
        tuple(map(printable, value.get_values_for_type(x509.DNSName))),
        tuple(_addresses(value)),
        tuple(map(printable, value.get_values_for_type(x509.UniformResourceIdentifier))),
    )


def _addresses(
    value: x509.SubjectAlternativeName,
) -> Iterator[ipaddress.IPv4Address | ipaddress.IPv6Address]:
    for address in value.get_values_for_type(x509.IPAddress):
        if isinstance(address, ipaddress.IPv4Address | ipaddress.IPv6Address):
            yield address


def bundle(*parts: bytes) -> bytes:
    """Return certificates of CAs (PEM, any number a part) as one file, each once, in this order.

    Raises:
        PkiError: a part has no certificate, or one that is no CA's.
    """
    found: dict[bytes, x509.Certificate] = {}
    for part in parts:
        for cert in _pem.certificates(part, what="part of the bundle"):
            if not _profile.is_ca(cert):
                msg = (
                    f"certificate of {text_of(cert.subject)} is no CA's, and has no place in a "
                    "bundle that says whom to trust: leave it out"
                )
                raise PkiError(msg)
            found[cert.fingerprint(hashes.SHA256())] = cert
    return b"".join(map(_pem.pem, found.values()))


def split(data: bytes) -> tuple[bytes, ...]:
    """Return the certificates of a file (PEM) one by one.

    Raises:
        PkiError: it has none, or something else.
    """
    return tuple(map(_pem.pem, _pem.certificates(data, what="file")))


# --- signing requests -----------------------------------------------------------------------------


def read_request(csr: bytes) -> Request:
    """Return what a certificate signing request (PEM, at most 64 KiB) asks for.

    Raises:
        PkiError: it is malformed, its signature is wrong, its key is weak; it asks for names of
            other kinds than DNS, IP and URI, for bad ones, or for more than one URI.
    """
    return request_of(load_request(csr)[0])


def request_of(csr: x509.CertificateSigningRequest) -> Request:
    """Return what a signing request asks for."""
    with _pem.reading("signing request"):
        public = csr.public_key()
        return Request(
            name=printable(common_name(csr.subject)),
            names=_names_asked_for(csr),
            key=_keys.kind(public),
            key_fingerprint=_keys.fingerprint(public),
            ignored=tuple(_ignored(csr)),
        )


def load_request(csr: bytes) -> tuple[x509.CertificateSigningRequest, _keys.PublicKey]:
    """Return a signing request with its key, which is strong enough and which its sender has."""
    what = "signing request"
    part = _pem.single(csr, "request", what=what, limit=_pem.REQUEST_LIMIT)
    with _pem.reading(what):
        loaded = x509.load_pem_x509_csr(part)
        key = _keys.strong(loaded.public_key(), what=f"key of the {what}")
        if not loaded.is_signature_valid:
            msg = (
                f"{what} has a wrong signature: it was damaged or changed on its way. Make it "
                "again on the device"
            )
            raise PkiError(msg)
    return loaded, key


def _names_asked_for(csr: x509.CertificateSigningRequest) -> Names:
    try:
        value = csr.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return Names()
    dns: list[str] = []
    ips: list[str] = []
    uris: list[str] = []
    for name in value:
        match name:
            case x509.DNSName():
                dns.append(name.value)
            case x509.IPAddress():
                ips.append(str(name.value))
            case x509.UniformResourceIdentifier():
                uris.append(name.value)
            case _:
                msg = (
                    f"signing request asks for a name of the kind {type(name).__name__}: DNS "
                    "names, IP addresses and a URI are what it may have. Make another on the device"
                )
                raise PkiError(msg)
    return parse_names(dns=dns, ips=ips, uris=uris)


def _ignored(csr: x509.CertificateSigningRequest) -> Iterator[str]:
    common_names = 0
    for attribute in csr.subject:
        common_names += attribute.oid == NameOID.COMMON_NAME
        if attribute.oid != NameOID.COMMON_NAME or common_names > 1:
            yield printable(f"subject: {attribute.rfc4514_string()}")
    for extension in csr.extensions:
        if extension.oid != ExtensionOID.SUBJECT_ALTERNATIVE_NAME:
            # The library's only public way to its name; of unknown ones there is the number.
            name = type(extension.value).__name__
            unknown = isinstance(extension.value, x509.UnrecognizedExtension)
            yield f"extension: {extension.oid.dotted_string if unknown else name}"


# --- revocation lists -----------------------------------------------------------------------------


def read_crl(crl: bytes, ca: bytes | None = None) -> CrlInfo:
    """Return what a revocation list (PEM, exactly one) says.

    Parameters:
        ca: if given, the list has to be signed by one of these CAs (PEM, any number).

    Raises:
        PkiError: it is malformed, has no number or no date of the next one, or none of the CAs
            signed it.
    """
    what = "revocation list"
    loaded = load_crls(_pem.single(crl, "crl", what=what))[0]
    if ca is not None:
        authorities = _pem.certificates(ca, what="CA certificate")
        if not any(has_signed(authority, loaded) for authority in authorities):
            msg = (
                f"{what} of {text_of(loaded.issuer)} is signed by none of the CAs given: it is "
                "forged, or of another CA. Get it from the CA again"
            )
            raise PkiError(msg)
    return crl_info(loaded)


def load_crls(data: bytes) -> list[x509.CertificateRevocationList]:
    """Return all revocation lists of a file."""
    what = "revocation list"
    parts = _pem.blocks(data, "crl", what=what)
    with _pem.reading(what):
        loaded = [x509.load_pem_x509_crl(part) for part in parts]
        for crl in loaded:
            _ = crl.extensions, crl.issuer, crl.next_update_utc
    return loaded


def has_signed(ca: x509.Certificate, crl: x509.CertificateRevocationList) -> bool:
    """Whether a CA has made a revocation list."""
    try:
        return (
            ca.subject == crl.issuer
            and _profile.is_ca(ca)
            and crl.is_signature_valid(_keys.strong(ca.public_key(), what="key of the CA"))
        )
    except (PkiError, InvalidSignature):
        return False


def crl_info(crl: x509.CertificateRevocationList) -> CrlInfo:
    """Return what a revocation list says."""
    with _pem.reading("revocation list"):
        if crl.next_update_utc is None:
            msg = "revocation list has no date of the next one: make it again"
            raise PkiError(msg)
        return CrlInfo(
            issuer=text_of(crl.issuer),
            number=_number(crl),
            this_update=crl.last_update_utc,
            next_update=crl.next_update_utc,
            revoked=tuple(map(_revocation, crl)),
        )


def _number(crl: x509.CertificateRevocationList) -> int:
    try:
        return crl.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
    except x509.ExtensionNotFound:
        msg = "revocation list has no number: make it again"
        raise PkiError(msg) from None


def _revocation(entry: x509.RevokedCertificate) -> Revocation:
    try:
        reason = entry.extensions.get_extension_for_class(x509.CRLReason).value.reason.value
    except x509.ExtensionNotFound:
        reason = "unspecified"
    # Another CA's list may have reasons that are not among ours.
    return Revocation(
        serial_of(entry.serial_number), entry.revocation_date_utc, cast("Reason", reason)
    )
