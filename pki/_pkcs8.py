"""Private keys encrypted so that guessing the passphrase is slow.

`cryptography` writes PKCS#8 with 2048 rounds of PBKDF2 and offers no other number (its
``encryption_builder`` is for PKCS#12 and OpenSSH only), so the envelope is made here: RFC 5958
EncryptedPrivateKeyInfo with PBES2 (RFC 8018), the same as ``openssl pkcs8 -topk8 -v2 aes-256-cbc
-v2prf hmacWithSHA256 -iter 600000`` makes. It is read by `cryptography`, OpenSSL, and thus ``ssl``.
"""

from __future__ import annotations

import base64
import hashlib
import os
import textwrap

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.padding import PKCS7

ROUNDS = 600_000
"""OWASP's recommendation for PBKDF2-HMAC-SHA256; 0.1 s here."""
_KEY_SIZE = 32
_SALT_SIZE = 16

_INTEGER, _OCTETS, _NULL, _SEQUENCE = b"\x02", b"\x04", b"\x05\x00", b"\x30"
_PBES2 = bytes.fromhex("06092a864886f70d01050d")  # 1.2.840.113549.1.5.13
_PBKDF2 = bytes.fromhex("06092a864886f70d01050c")  # 1.2.840.113549.1.5.12
_HMAC_SHA256 = bytes.fromhex("06082a864886f70d0209")  # 1.2.840.113549.2.9
_AES256_CBC = bytes.fromhex("060960864801650304012a")  # 2.16.840.1.101.3.4.1.42


def encrypt(pkcs8: bytes, passphrase: bytes) -> bytes:
    """Return an unencrypted PKCS#8 key (DER) as PEM, encrypted."""
    salt, iv = os.urandom(_SALT_SIZE), os.urandom(16)
    key = hashlib.pbkdf2_hmac("sha256", passphrase, salt, ROUNDS, _KEY_SIZE)
    padder = PKCS7(128).padder()
    encryptor = Cipher(algorithms.AES256(key), modes.CBC(iv)).encryptor()
    secret = encryptor.update(padder.update(pkcs8) + padder.finalize()) + encryptor.finalize()
    derivation = _sequence(
        _PBKDF2,
        _sequence(
            _der(_OCTETS, salt),
            _der(_INTEGER, _integer(ROUNDS)),
            _sequence(_HMAC_SHA256, _NULL),
        ),
    )
    cipher = _sequence(_AES256_CBC, _der(_OCTETS, iv))
    return _pem(_sequence(_sequence(_PBES2, _sequence(derivation, cipher)), _der(_OCTETS, secret)))


def _der(tag: bytes, content: bytes) -> bytes:
    size = len(content)
    if size < 0x80:  # noqa: PLR2004
        return tag + bytes([size]) + content
    length = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return tag + bytes([0x80 | len(length)]) + length + content


def _sequence(*parts: bytes) -> bytes:
    return _der(_SEQUENCE, b"".join(parts))


def _integer(number: int) -> bytes:
    return number.to_bytes(number.bit_length() // 8 + 1, "big")


def _pem(der: bytes) -> bytes:
    lines = textwrap.wrap(base64.b64encode(der).decode(), 64)
    label = "ENCRYPTED PRIVATE KEY"
    return "\n".join([f"-----BEGIN {label}-----", *lines, f"-----END {label}-----", ""]).encode()
