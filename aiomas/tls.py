"""The two SSL contexts of a connection on which both sides prove who they are.

Knows about certificates and nothing about connections.  The functions are also found under their
historic place, :mod:`aiomas.util`.
"""

from __future__ import annotations

import contextlib
import os
import ssl
from collections.abc import Iterator
from typing import NamedTuple

__all__ = ["SSLCerts", "make_ssl_client_context", "make_ssl_server_context"]

# TLS 1.3 brings its own suites; these are for peers that speak no more than TLS 1.2.
_TLS12_CIPHERS = "ECDHE+AESGCM"


class SSLCerts(NamedTuple):
    """The names of the three PEM files that a container needs for TLS."""

    cafile: str | os.PathLike[str]
    """Certificate of the authority that signed every peer's certificate."""
    certfile: str | os.PathLike[str]
    """Certificate of this machine."""
    keyfile: str | os.PathLike[str]
    """Private key that belongs to *certfile*, not encrypted."""


def make_ssl_server_context(
    cafile: str | os.PathLike[str],
    certfile: str | os.PathLike[str],
    keyfile: str | os.PathLike[str],
) -> ssl.SSLContext:
    """Return the context for a server socket; clients must show a certificate of the same CA.

    Args:
        cafile: PEM file with the CA certificate; no other authority is trusted.
        certfile: PEM file with this server's certificate.
        keyfile: PEM file with the private key of *certfile*.

    Raises:
        OSError: a file cannot be read (``FileNotFoundError``), or is no valid PEM
            (``ssl.SSLError``), or the key does not belong to the certificate.
    """
    context = _make_context(ssl.PROTOCOL_TLS_SERVER, cafile, certfile, keyfile)
    # A session ticket would let a client come back without showing its certificate again.
    context.num_tickets = 0
    context.options |= ssl.OP_SINGLE_ECDH_USE
    return context


def make_ssl_client_context(
    cafile: str | os.PathLike[str],
    certfile: str | os.PathLike[str],
    keyfile: str | os.PathLike[str],
) -> ssl.SSLContext:
    """Return the context for a client socket; it checks the server's certificate and its name.

    Takes and raises the same as :func:`make_ssl_server_context`.
    """
    context = _make_context(ssl.PROTOCOL_TLS_CLIENT, cafile, certfile, keyfile)
    context.check_hostname = True
    return context


def _make_context(
    protocol: ssl._SSLMethod,
    cafile: str | os.PathLike[str],
    certfile: str | os.PathLike[str],
    keyfile: str | os.PathLike[str],
) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(_TLS12_CIPHERS)
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_TICKET
    context.verify_mode = ssl.CERT_REQUIRED
    for file in (cafile, certfile, keyfile):
        with open(file, "rb"):  # noqa: PTH123 - the errors of ssl do not name the file
            pass
    with _naming(cafile):
        context.load_verify_locations(cafile=os.fspath(cafile))
    with _naming(certfile, keyfile):
        context.load_cert_chain(certfile=os.fspath(certfile), keyfile=os.fspath(keyfile))
    return context


@contextlib.contextmanager
def _naming(*files: str | os.PathLike[str]) -> Iterator[None]:
    """Let an error of OpenSSL say which files it is about."""
    try:
        yield
    except ssl.SSLError as exc:
        names = ", ".join(map(str, files))
        raise ssl.SSLError(exc.errno, f"{exc.strerror}: {names}") from exc
