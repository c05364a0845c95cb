"""PEM to objects of `cryptography`, which may come from anybody: malformed input is a PkiError."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from typing import Literal

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding

from pki._values import PkiError

Kind = Literal["certificate", "request", "crl", "key"]

SIZE_LIMIT = 16 * 2**20
"""Bytes: a revocation list of 300,000 entries."""
REQUEST_LIMIT = 64 * 2**10
"""Bytes of a signing request, which comes from the network."""

_BLOCK = re.compile(rb"-----BEGIN ([A-Z0-9 ]{1,64})-----\s[^-]*(?:-(?!----)[^-]*)*-----END \1-----")
_BEGIN = re.compile(rb"-----BEGIN ([A-Z0-9 ]{1,64})-----")
_KINDS: dict[bytes, Kind] = {
    b"CERTIFICATE": "certificate",
    b"X509 CERTIFICATE": "certificate",
    b"CERTIFICATE REQUEST": "request",
    b"NEW CERTIFICATE REQUEST": "request",
    b"X509 CRL": "crl",
    b"PRIVATE KEY": "key",
    b"ENCRYPTED PRIVATE KEY": "key",
    b"EC PRIVATE KEY": "key",
    b"RSA PRIVATE KEY": "key",
}
_NAMES: dict[Kind, str] = {
    "certificate": "certificate",
    "request": "certificate signing request",
    "crl": "revocation list",
    "key": "private key",
}
_CONVERTERS: dict[Kind, str] = {
    "certificate": "x509",
    "request": "req",
    "crl": "crl",
    "key": "pkey",
}
MALFORMED = (
    ValueError,
    TypeError,
    KeyError,
    OverflowError,
    UnsupportedAlgorithm,
    x509.DuplicateExtension,
    x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
)
"""What `cryptography` raises for things that are malformed, or that it does not know."""


@contextlib.contextmanager
def reading(what: str) -> Iterator[None]:
    """Turn what `cryptography` raises for malformed input into an error that says what it was."""
    try:
        yield
    except PkiError:
        raise
    except MALFORMED as error:
        msg = f"{what} cannot be read: it is damaged, or of a kind that is not supported ({error})"
        raise PkiError(msg) from error


def kind_of(data: bytes) -> Kind:
    """Return what a file holds, by its first PEM header.

    Raises:
        PkiError: it is none of these.
    """
    # An EC key may have its parameters before it.
    for match in _BEGIN.finditer(data):
        if match[1] in _KINDS:
            return _KINDS[match[1]]
    what = "DER (binary)" if data[:1] == b"\x30" else "something else"
    msg = (
        f"expected a certificate, signing request, revocation list or private key in PEM, "
        f"this is {what}: `openssl x509 -inform DER -in FILE -out FILE.pem` and the like convert"
    )
    raise PkiError(msg)


def blocks(data: bytes, kind: Kind, *, what: str, limit: int = SIZE_LIMIT) -> list[bytes]:
    """Return the PEM blocks of a file, all of which are of this kind, at least one.

    Raises:
        PkiError: there is none, one of another kind, one without an end, or `data` is too long.
    """
    if len(data) > limit:
        msg = f"{what} has {len(data)} bytes, {limit} are the limit: is it the right file?"
        raise PkiError(msg)
    found = [(match[1], match[0] + b"\n") for match in _BLOCK.finditer(data)]
    others = [label.decode() for label, _ in found if _KINDS.get(label) != kind]
    if others or not found or len(found) != len(_BEGIN.findall(data)):
        has = f"a {others[0].lower()!r}" if others else "a block without its end"
        has = has if _BEGIN.search(data) else "nothing of the kind"
        msg = f"{what} should be a {_NAMES[kind]} in PEM, and has {has}: is it the right file?"
        if not _BEGIN.search(data) and data[:1] == b"\x30":
            msg = (
                f"{what} should be a {_NAMES[kind]} in PEM, and is in DER (binary): "
                f"`openssl {_CONVERTERS[kind]} -inform DER -in FILE -out FILE.pem` converts it"
            )
        raise PkiError(msg)
    return [block for _, block in found]


def single(data: bytes, kind: Kind, *, what: str, limit: int = SIZE_LIMIT) -> bytes:
    """Return the only PEM block of a file.

    Raises:
        PkiError: as `blocks`, or there are several.
    """
    found = blocks(data, kind, what=what, limit=limit)
    if len(found) > 1:
        msg = f"{what} should be one {_NAMES[kind]}, and has {len(found)}: is it the right file?"
        raise PkiError(msg)
    return found[0]


def certificates(data: bytes, *, what: str) -> list[x509.Certificate]:
    """Return all certificates of a file."""
    parts = blocks(data, "certificate", what=what)
    with reading(what):
        return [_loaded(part) for part in parts]


def certificate(data: bytes, *, what: str = "certificate") -> x509.Certificate:
    """Return the only certificate of a file."""
    part = single(data, "certificate", what=what)
    with reading(what):
        return _loaded(part)


def _loaded(part: bytes) -> x509.Certificate:
    cert = x509.load_pem_x509_certificate(part)
    # These are parsed when they are asked for: what is malformed has to show here.
    _ = cert.extensions, cert.subject, cert.issuer, cert.not_valid_after_utc
    return cert


def pem(thing: x509.Certificate | x509.CertificateSigningRequest) -> bytes:
    """Return a thing as PEM."""
    return thing.public_bytes(Encoding.PEM)
