"""Authorities that sign what they are told to, good or bad."""

from __future__ import annotations

import dataclasses
import datetime
import inspect
import ipaddress
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from aiomas import SSLCerts

NOW = datetime.datetime.now(datetime.UTC)
DAY = datetime.timedelta(days=1)
BOTH = (ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH)
NAMES: tuple[x509.GeneralName, ...] = (
    x509.DNSName("localhost"),
    x509.IPAddress(ipaddress.ip_address("127.0.0.1")),
    x509.IPAddress(ipaddress.ip_address("::1")),
)


@dataclasses.dataclass(frozen=True)
class Issued:
    """A certificate with its key, and files of both."""

    certificate: x509.Certificate
    key: Any
    certs: SSLCerts

    def trusting(self, *authorities: Authority, crlfile: Path | None = None) -> SSLCerts:
        """Return the files of a machine that has this certificate and trusts *authorities*."""
        cafile = Path(self.certs.certfile).with_suffix(f".{'-'.join(a.file for a in authorities)}")
        cafile.write_bytes(b"".join(authority.pem for authority in authorities))
        return SSLCerts(cafile, self.certs.certfile, self.certs.keyfile, crlfile)


class Authority:
    """A certificate authority, whose files are in *folder*.

    Args:
        folder: where its files are, one folder for all authorities of a test session.
        file: what its files are called.
        name: its common name; that of another authority, if need be.
        constraints: its name constraints.
    """

    def __init__(
        self,
        folder: Path,
        file: str,
        *,
        name: str | None = None,
        constraints: x509.NameConstraints | None = None,
    ) -> None:
        self.folder = folder
        self.file = file
        self.key: Any = ec.generate_private_key(ec.SECP256R1())
        self.name = common_name(name or file)
        self._count = 0
        ski = x509.SubjectKeyIdentifier.from_public_key(self.key.public_key())
        builder = (
            _builder(self.name, self.name, self.key, (-DAY, 10 * DAY))
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(key_cert_sign=True, crl_sign=True), critical=True)
            .add_extension(ski, critical=False)
        )
        if constraints is not None:
            builder = builder.add_extension(constraints, critical=True)
        self.certificate = builder.sign(self.key, hashes.SHA256())

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    def issue(
        self,
        name: str = "device",
        *,
        sans: Sequence[x509.GeneralName] | None = NAMES,
        usages: Sequence[x509.ObjectIdentifier] = BOTH,
        validity: tuple[datetime.timedelta, datetime.timedelta] = (-DAY, DAY),
        aki: bool = True,
        key: Any = None,
        signer: Issued | None = None,
        forged_with: Any = None,
    ) -> Issued:
        """Sign a certificate of the good kind, but for what is asked for otherwise.

        It can be signed by a device, or with a key that is not the one that it says.
        """
        key = key or ec.generate_private_key(ec.SECP256R1())
        certificate, issuer_key = (
            (self.certificate, self.key) if signer is None else (signer.certificate, signer.key)
        )
        builder = (
            _builder(common_name(name), certificate.subject, key, validity)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(
                _usage(digital_signature=True, key_encipherment=isinstance(key, rsa.RSAPrivateKey)),
                critical=True,
            )
            .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
            .add_extension(
                x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False
            )
        )
        if sans is not None:
            builder = builder.add_extension(x509.SubjectAlternativeName(sans), critical=False)
        if aki:
            builder = builder.add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()),
                critical=False,
            )
        signed = builder.sign(forged_with or issuer_key, hashes.SHA256())
        chain = [signed] if signer is None else [signed, signer.certificate]
        return Issued(signed, key, self._write(name, chain, key))

    def revoke(
        self,
        *revoked: Issued,
        next_update: datetime.timedelta = DAY,
        forged_with: Any = None,
    ) -> Path:
        """Write a revocation list with these certificates."""
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self.name)
            .last_update(NOW - 2 * DAY)
            .next_update(NOW + next_update)
            .add_extension(x509.CRLNumber(1), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()),
                critical=False,
            )
        )
        for issued in revoked:
            builder = builder.add_revoked_certificate(
                x509.RevokedCertificateBuilder()
                .serial_number(issued.certificate.serial_number)
                .revocation_date(NOW - DAY)
                .build()
            )
        crl = builder.sign(forged_with or self.key, hashes.SHA256())
        file = self._file("crl")
        file.write_bytes(crl.public_bytes(serialization.Encoding.PEM))
        return file

    def _file(self, kind: str) -> Path:
        self._count += 1
        return self.folder / f"{self.file}-{self._count}.{kind}"

    def _write(self, name: str, chain: list[x509.Certificate], key: Any) -> SSLCerts:
        cafile, certfile, keyfile = (self._file(f"{name}.{kind}") for kind in ("ca", "pem", "key"))
        cafile.write_bytes(self.pem)
        certfile.write_bytes(b"".join(c.public_bytes(serialization.Encoding.PEM) for c in chain))
        keyfile.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        return SSLCerts(cafile, certfile, keyfile)


def common_name(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _usage(**what: bool) -> x509.KeyUsage:
    fields = inspect.signature(x509.KeyUsage).parameters
    return x509.KeyUsage(**(dict.fromkeys(fields, False) | what))


def _builder(
    subject: x509.Name, issuer: x509.Name, key: Any, validity: tuple[datetime.timedelta, ...]
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(NOW + validity[0])
        .not_valid_after(NOW + validity[1])
    )
