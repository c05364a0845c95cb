"""The two SSL contexts of a connection on which both sides prove who they are.

Knows about certificates and nothing about connections.  The functions are also found under their
historic place, :mod:`aiomas.util`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import ssl
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple, Self

__all__ = ["PeerIdentity", "SSLCerts", "make_ssl_client_context", "make_ssl_server_context"]

# TLS 1.3 brings its own suites; these are for peers that speak no more than TLS 1.2.
_TLS12_CIPHERS = "ECDHE+AESGCM"
_VERSIONS = (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3)

# Of OpenSSL's x509_vfy.h: what VERIFY_X509_STRICT alone objects to, and names that do not match.
_STRICT_CODES = range(80, 94)
_NAME_CODES = (62, 64)

_ESCAPES = str.maketrans({"\\": r"\\", ",": r"\,", "=": r"\="})

_File = str | os.PathLike[str]


class _Files(NamedTuple):
    cafile: _File
    """Certificates of the authorities, of which one signed every peer's certificate."""
    certfile: _File
    """Certificate of this machine."""
    keyfile: _File
    """Private key that belongs to *certfile*, not encrypted."""


class SSLCerts(_Files):
    """The names of the PEM files that a container needs for TLS.

    A tuple of three names; of four if there is a *crlfile*, so that code that knows of three only
    does not lose it in silence.

    Args:
        cafile: certificate of the authority that signed every peer's certificate.  It may hold
            those of several, as is needed while an old one is replaced.
        certfile: certificate of this machine.
        keyfile: private key that belongs to *certfile*, not encrypted.
        crlfile: revocation list of the authority, or of each of them.
    """

    __slots__ = ()

    def __new__(
        cls, cafile: _File, certfile: _File, keyfile: _File, crlfile: _File | None = None
    ) -> Self:
        """Return a tuple of those names that are given."""
        files = (cafile, certfile, keyfile)
        return tuple.__new__(cls, files if crlfile is None else (*files, crlfile))

    @classmethod
    def _make(cls, iterable: Iterable[Any]) -> Self:  # type: ignore[override]
        """Return the tuple with these three or four names."""
        return cls(*iterable)

    @property
    def crlfile(self) -> _File | None:
        """Revocation list, or ``None``: then nobody's certificate is looked for in one."""
        return self[3] if len(self) > 3 else None  # noqa: PLR2004

    def __repr__(self) -> str:
        fields = ", ".join(f"{name}={value!r}" for name, value in self._asdict().items())
        return f"{type(self).__name__}({fields})"

    def _asdict(self) -> dict[str, Any]:
        """Return the names by what they are of."""
        return dict(zip((*self._fields, "crlfile"), self, strict=False))

    def _replace(self, **changes: Any) -> Self:
        """Return the same names with *changes*."""
        return type(self)(**(self._asdict() | changes))


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class PeerIdentity:
    """Whom the certificate of a peer names, after it was verified."""

    uri: str | None = None
    """The URI that stands for the peer; ``None`` if its certificate has none, or several."""
    dns_names: tuple[str, ...] = ()
    """Its host names."""
    ips: tuple[str, ...] = ()
    """Its addresses, as the module ``ipaddress`` writes them."""
    serial: int
    """The serial number of its certificate; unique for each issuer."""
    subject: str
    """The subject of its certificate, for people to read."""
    issuer: str
    """The authority that signed it, for people to read."""
    fingerprint: str
    """SHA-256 of the certificate, in hexadecimal digits."""

    @property
    def serial_hex(self) -> str:
        """The serial number in hexadecimal digits."""
        return f"{self.serial:x}"

    def __str__(self) -> str:
        return self.uri or f"{self.subject} (serial {self.serial_hex})"

    @classmethod
    def of(cls, ssl_object: ssl.SSLObject) -> PeerIdentity | None:
        """Return who is at the other end, or ``None`` if it has shown nothing that was verified."""
        # Only TLS pays for them: 2 ms.
        import hashlib  # noqa: PLC0415
        import ipaddress  # noqa: PLC0415

        certificate: Any = ssl_object.getpeercert()
        encoded = ssl_object.getpeercert(binary_form=True)
        if not certificate or encoded is None:
            return None
        names: dict[str, list[str]] = {}
        for kind, name in certificate.get("subjectAltName", ()):
            names.setdefault(kind, []).append(name)
        uris = names.get("URI", [])
        return cls(
            uri=uris[0] if len(uris) == 1 else None,
            dns_names=tuple(names.get("DNS", ())),
            ips=tuple(str(ipaddress.ip_address(ip)) for ip in names.get("IP Address", ())),
            serial=int(certificate["serialNumber"], 16),
            subject=_readable(certificate["subject"]),
            issuer=_readable(certificate["issuer"]),
            fingerprint=hashlib.sha256(encoded).hexdigest(),
        )


def make_ssl_server_context(
    cafile: _File,
    certfile: _File,
    keyfile: _File,
    crlfile: _File | None = None,
    *,
    strict: bool = True,
    minimum_version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_2,
) -> ssl.SSLContext:
    """Return the context for a server socket; clients must show a certificate of the same CA.

    Args:
        cafile: PEM file with the CA certificate, or with several; no other authority is trusted.
        certfile: PEM file with this server's certificate.
        keyfile: PEM file with the private key of *certfile*.
        crlfile: PEM file with the revocation list of the CA, or of each of them.  Without a list
            that is valid now, nobody is let in.
        strict: whether certificates have to be as RFC 5280 wants them, with the extensions that
            name their key and that of their authority; and whether names are looked for in
            ``subjectAltName`` only.  ``False`` is for certificates that were made the old way.
        minimum_version: ``ssl.TLSVersion.TLSv1_3`` to refuse TLS 1.2.

    Raises:
        OSError: a file cannot be read (``FileNotFoundError``), or is no valid PEM
            (``ssl.SSLError``), or the key does not belong to the certificate.
        ValueError: *minimum_version* is neither TLS 1.2 nor TLS 1.3.
    """
    certs = SSLCerts(cafile, certfile, keyfile, crlfile)
    context = _make_context(ssl.PROTOCOL_TLS_SERVER, certs, minimum_version, strict=strict)
    # A session ticket would let a client come back without showing its certificate again.
    context.num_tickets = 0
    context.options |= ssl.OP_SINGLE_ECDH_USE
    return context


def make_ssl_client_context(
    cafile: _File,
    certfile: _File,
    keyfile: _File,
    crlfile: _File | None = None,
    *,
    strict: bool = True,
    minimum_version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_2,
) -> ssl.SSLContext:
    """Return the context for a client socket; it checks the server's certificate and its name.

    Takes and raises the same as :func:`make_ssl_server_context`.
    """
    certs = SSLCerts(cafile, certfile, keyfile, crlfile)
    context = _make_context(ssl.PROTOCOL_TLS_CLIENT, certs, minimum_version, strict=strict)
    context.check_hostname = True
    context.hostname_checks_common_name = not strict
    return context


def make_checked_contexts(certs: SSLCerts) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Return the contexts for a server and for clients, after they have shaken hands.

    So the key fits, the certificate is valid now, for both purposes, and signed by an authority
    in the file, and no revocation list is missing.

    Raises:
        OSError: that is not so; or what :func:`make_ssl_server_context` raises.
    """
    server, client = make_ssl_server_context(*certs), make_ssl_client_context(*certs)
    client.check_hostname = False  # the address at which others reach us is not known here
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [
        client.wrap_bio(to_client, to_server),
        server.wrap_bio(to_server, to_client, server_side=True),
    ]
    with _naming(*certs):
        while ends:
            for end in list(ends):
                try:
                    end.do_handshake()
                except ssl.SSLWantReadError:
                    continue
                except ssl.SSLCertVerificationError as exc:
                    raise explained(exc, server) from None
                ends.remove(end)
    client.check_hostname = True
    return server, client


def explained(error: ssl.SSLError, context: ssl.SSLContext) -> ssl.SSLError:
    """Add to *error*, which a handshake with *context* raised, what can be done about it."""
    if not isinstance(error, ssl.SSLCertVerificationError):
        return error
    hint = ""
    if error.verify_code in _STRICT_CODES and context.verify_flags & ssl.VERIFY_X509_STRICT:
        hint = (
            "the certificate was made the old way; make a new one, or pass contexts that were made "
            "with strict=False"
        )
    elif error.verify_code in _NAME_CODES and not context.hostname_checks_common_name:
        hint = (
            "names are looked for in subjectAltName; contexts that were made with strict=False "
            "look at the common name, too"
        )
    if hint:
        error.strerror = f"{error.strerror} [{hint}]"
    return error


def _make_context(
    protocol: ssl._SSLMethod, certs: SSLCerts, minimum_version: ssl.TLSVersion, *, strict: bool
) -> ssl.SSLContext:
    if minimum_version not in _VERSIONS:
        msg = f"minimum_version must be TLSv1_2 or TLSv1_3, got {minimum_version!r}"
        raise ValueError(msg)
    context = ssl.SSLContext(protocol)
    context.minimum_version = minimum_version
    context.set_ciphers(_TLS12_CIPHERS)
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_TICKET | ssl.OP_NO_RENEGOTIATION
    context.verify_mode = ssl.CERT_REQUIRED
    if strict:
        context.verify_flags |= ssl.VERIFY_X509_STRICT
    for file in certs:
        with open(file, "rb"):  # noqa: PTH123 - the errors of ssl do not name the file
            pass
    with _naming(certs.cafile):
        context.load_verify_locations(cafile=os.fspath(certs.cafile))
    with _naming(certs.certfile, certs.keyfile):
        context.load_cert_chain(os.fspath(certs.certfile), os.fspath(certs.keyfile), _no_password)
    if certs.crlfile is not None:
        _load_revocations(context, certs.crlfile)
    return context


def _no_password() -> str:
    """Keep OpenSSL from asking at the terminal."""
    msg = "the private key is encrypted; a program needs one that is not"
    raise ssl.SSLError(msg)


def _load_revocations(context: ssl.SSLContext, crlfile: _File) -> None:
    before = context.cert_store_stats()
    with _naming(crlfile):
        context.load_verify_locations(cafile=os.fspath(crlfile))
    after = context.cert_store_stats()
    if after["x509"] != before["x509"] or after["crl"] == before["crl"]:
        # A certificate in there would be that of one more authority.
        msg = f"A file with revocation lists, and with nothing else, is needed: {crlfile}"
        raise ssl.SSLError(msg)
    context.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF


def _readable(name: Any) -> str:
    parts = (part for group in name for part in group)
    return ", ".join(f"{key}={value.translate(_ESCAPES)}" for key, value in parts)


@contextlib.contextmanager
def _naming(*files: _File) -> Iterator[None]:
    """Let an error of OpenSSL say which files it is about."""
    try:
        yield
    except ssl.SSLError as exc:
        names = ", ".join(map(str, files))
        raise ssl.SSLError(exc.errno, f"{exc.strerror or exc}: {names}") from exc
