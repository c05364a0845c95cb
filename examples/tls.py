"""TLS: two containers that encrypt everything and prove to each other who they are.

The certificates are made here, in a temporary folder, so that the example needs nothing else: an
authority, and one certificate for each container.  A third container has its certificate from
an authority that the others do not know, and is refused.  The guide about TLS shows how to make
certificates for a real system.

Run it with ``python examples/tls.py``.
"""

from __future__ import annotations

import asyncio
import datetime
import ipaddress
import tempfile
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

import aiomas

ADDRESS = "127.0.0.1"


class Vault(aiomas.Agent):
    @aiomas.expose
    async def open(self, word: str) -> str:
        return "gold" if word == "sesame" else "nothing"


class Authority:
    """Signs certificates, which go to files in *folder*."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder = folder
        self.cafile = folder / f"{name}.pem"
        self._name = _name(name)
        self._key = ec.generate_private_key(ec.SECP256R1())
        certificate = (
            _certificate(self._name, self._name, self._key.public_key())
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(signs_certificates=True), critical=True)
            .sign(self._key, hashes.SHA256())
        )
        self.cafile.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))

    def issue(self, name: str) -> aiomas.SSLCerts:
        """Make a key and a certificate for a container at `ADDRESS`."""
        key = ec.generate_private_key(ec.SECP256R1())
        # The address is what a client checks, and it is looked for in this extension only.
        alternative = x509.SubjectAlternativeName(
            [x509.IPAddress(ipaddress.ip_address(ADDRESS)), x509.DNSName("localhost")]
        )
        certificate = (
            _certificate(_name(name), self._name, key.public_key())
            .add_extension(alternative, critical=False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(signs_certificates=False), critical=True)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()),
                critical=False,
            )
            .sign(self._key, hashes.SHA256())
        )
        certfile, keyfile = self.folder / f"{name}.pem", self.folder / f"{name}.key"
        certfile.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        keyfile.touch(mode=0o600)  # before there is something in it to read
        keyfile.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        return aiomas.SSLCerts(self.cafile, certfile, keyfile)


def _name(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _certificate(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        .not_valid_before(now - datetime.timedelta(minutes=5))  # clocks differ
        .not_valid_after(now + datetime.timedelta(days=1))
    )


async def main() -> None:
    with tempfile.TemporaryDirectory() as temporary:
        authority = Authority(Path(temporary), "authority")
        stranger = Authority(Path(temporary), "another-authority")
        async with (
            aiomas.Container.open((ADDRESS, 0), ssl=authority.issue("server")) as there,
            aiomas.Container.open((ADDRESS, 0), ssl=authority.issue("client")) as here,
            aiomas.Container.open((ADDRESS, 0), ssl=stranger.issue("stranger")) as outside,
        ):
            vault = Vault(there)
            print(f"The vault is at {vault.addr}")

            proxy = await here.connect(vault.addr, Vault)
            print(f"With a certificate of our authority: {await proxy.open('sesame')}")

            try:
                await outside.connect(vault.addr)
            except OSError as error:
                print(f"With a certificate of another authority: {type(error).__name__}")


if __name__ == "__main__":
    asyncio.run(main())
