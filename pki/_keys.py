"""Keys: the kinds of them, PEM, and which are strong enough."""

from __future__ import annotations

import hashlib

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PrivateFormat, PublicFormat

from pki import _pem, _pkcs8
from pki._values import DEVICE_KEY_TYPE, KEY_TYPES, KeyType, PkiError

PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey
PublicKey = ec.EllipticCurvePublicKey | rsa.RSAPublicKey | ed25519.Ed25519PublicKey

_CURVES = {"secp256r1": "ec-p256", "secp384r1": "ec-p384", "secp521r1": "ec-p521"}
_EXPONENT = 65537
_RSA_BITS = range(3072, 16385)


def make_key(key_type: KeyType = DEVICE_KEY_TYPE, passphrase: str | None = None) -> bytes:
    """Generate a private key and return it as PEM (PKCS#8).

    With a passphrase it is encrypted with AES-256-CBC under PBKDF2-HMAC-SHA256, 600,000 rounds.

    Raises:
        PkiError: an unknown type, or an empty passphrase.
    """
    return serialised(generate(key_type), passphrase)


def generate(key_type: KeyType) -> PrivateKey:
    """Return a new private key."""
    match key_type:
        case "ec-p384":
            return ec.generate_private_key(ec.SECP384R1())
        case "ec-p256":
            return ec.generate_private_key(ec.SECP256R1())
        case "rsa-3072" | "rsa-4096":
            return rsa.generate_private_key(_EXPONENT, int(key_type.removeprefix("rsa-")))
        case "ed25519":
            return ed25519.Ed25519PrivateKey.generate()
    msg = f"key type {key_type!r} is unknown: one of {', '.join(KEY_TYPES)}"
    raise PkiError(msg)


def encrypt_key(key: bytes, old: str | None, new: str | None) -> bytes:
    """Return a private key with another passphrase (None: not encrypted).

    Raises:
        PkiError: it cannot be read with *old*, or *new* is empty.
    """
    return serialised(load(key, old), new)


def serialised(key: PrivateKey, passphrase: str | None) -> bytes:
    """Return a private key as PEM, encrypted if there is a passphrase."""
    if passphrase is None:
        return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, serialization.NoEncryption())
    if not passphrase:
        msg = "passphrase is empty: give one, or none at all for a key that is not encrypted"
        raise PkiError(msg)
    der = key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, serialization.NoEncryption())
    return _pkcs8.encrypt(der, passphrase.encode())


def is_encrypted(key: bytes) -> bool:
    """Whether a private key needs a passphrase.

    Raises:
        PkiError: this is no private key in PEM.
    """
    block = _key_block(key)
    return block.startswith(b"-----BEGIN ENCRYPTED") or b"Proc-Type: 4,ENCRYPTED" in block


def _key_block(key: bytes) -> bytes:
    # OpenSSL writes a block with the parameters before an EC key.
    start = key.find(b"-----BEGIN EC PARAMETERS-----")
    end = key.find(b"-----END EC PARAMETERS-----")
    if 0 <= start < end:
        key = key[:start] + key[end + len(b"-----END EC PARAMETERS-----") :]
    return _pem.single(key, "key", what="private key")


def load(key: bytes, passphrase: str | None = None) -> PrivateKey:
    """Return a private key, of a kind that is strong enough.

    Raises:
        PkiError: it cannot be read, or the passphrase is wrong, missing, or not needed.
    """
    block = _key_block(key)
    encrypted = is_encrypted(key)
    if encrypted and not passphrase:
        msg = "private key is encrypted: give its passphrase"
        raise PkiError(msg)
    if not encrypted and passphrase is not None:
        msg = "private key is not encrypted, but a passphrase was given: leave it out"
        raise PkiError(msg)
    try:
        loaded = serialization.load_pem_private_key(
            block, passphrase.encode() if passphrase else None
        )
    except _pem.MALFORMED as error:
        # What was raised is not shown: nothing about a key belongs into logs.
        msg = (
            "private key cannot be decrypted: the passphrase is wrong, or the file is damaged"
            if encrypted
            else "private key cannot be read: the file is damaged, or the kind is not supported"
        )
        raise PkiError(msg) from error
    strong(loaded.public_key(), what="private key")
    assert isinstance(loaded, PrivateKey)  # noqa: S101 (its public key is)
    return loaded


def public_key(key: bytes, passphrase: str | None = None) -> bytes:
    """Return the public key (PEM) of a private key.

    Raises:
        PkiError: it cannot be read, or the passphrase is wrong, missing, or not needed.
    """
    return (
        load(key, passphrase)
        .public_key()
        .public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    )


def load_public(key: bytes) -> PublicKey:
    """Return a public key (PEM), of a kind that is strong enough.

    Raises:
        PkiError: it cannot be read, or is too weak.
    """
    with _pem.reading("public key"):
        loaded = serialization.load_pem_public_key(key)
    return strong(loaded, what="public key")


def kind(key: object) -> str:
    """Return what a public key is, like ``ec-p256``; ``unknown`` if it is of another family."""
    match key:
        case ec.EllipticCurvePublicKey():
            return _CURVES.get(key.curve.name, f"ec-{key.curve.name}")
        case rsa.RSAPublicKey():
            return f"rsa-{key.key_size}"
        case ed25519.Ed25519PublicKey():
            return "ed25519"
    return "unknown"


def strong(key: object, *, what: str) -> PublicKey:
    """Return a public key that is of a kind which the profile allows.

    Raises:
        PkiError: it is not.
    """
    match key:
        case ec.EllipticCurvePublicKey() if kind(key) in KEY_TYPES:
            return key
        case rsa.RSAPublicKey() if _is_strong_rsa(key):
            return key
        case ed25519.Ed25519PublicKey():
            return key
    msg = (
        f"{what} is of the kind {kind(key)}, which is too weak or not supported: make one of "
        f"{', '.join(KEY_TYPES)}"
    )
    raise PkiError(msg)


def _is_strong_rsa(key: rsa.RSAPublicKey) -> bool:
    return key.key_size in _RSA_BITS and key.public_numbers().e >= _EXPONENT


def spki(key: object) -> bytes:
    """Return a public key as DER, for comparison."""
    der: bytes = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)  # type: ignore[attr-defined]
    return der


def fingerprint(key: object) -> str:
    """Return the SHA-256 of a public key, hex."""
    return hashlib.sha256(spki(key)).hexdigest()


def digest_for(key: PrivateKey) -> hashes.SHA256 | hashes.SHA384 | None:
    """Return the hash that goes with a key in signatures; None if its kind has its own."""
    match key:
        case ed25519.Ed25519PrivateKey():
            return None
        case ec.EllipticCurvePrivateKey() if key.curve.key_size > 256:  # noqa: PLR2004
            return hashes.SHA384()
    return hashes.SHA256()
