"""Keys are quick where it is not they that are looked at."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator

import pytest

from pki import _keys, _pkcs8

FEW_ROUNDS = 1000

generate = _keys.generate


@pytest.fixture
def slow_keys() -> None:
    """Make each key anew and stretch passphrases with all rounds, as it is outside of tests."""


@pytest.fixture(scope="module", autouse=True)
def quick_keys_of_fixtures() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_keys, "generate", quick_generator(0, 1))
        yield


@pytest.fixture(autouse=True)
def quick_keys(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Use some RSA keys again and again, and let few rounds stretch a passphrase."""
    if "slow_keys" in request.fixturenames:
        monkeypatch.setattr(_keys, "generate", generate)
    else:
        monkeypatch.setattr(_keys, "generate", quick_generator(2, 3))
        monkeypatch.setattr(_pkcs8, "ROUNDS", FEW_ROUNDS)


def quick_generator(*numbers: int) -> Callable[[_keys.KeyType], _keys.PrivateKey]:
    """Return a function that takes turns with the RSA keys of these numbers.

    So those of a CA and its device differ, and those of a test from those of its module's fixtures.
    """
    turns = itertools.cycle(numbers)

    def generate_quickly(key_type: _keys.KeyType) -> _keys.PrivateKey:
        return rsa_key(key_type, next(turns)) if "rsa" in key_type else generate(key_type)

    return generate_quickly


@functools.cache
def rsa_key(key_type: _keys.KeyType, number: int) -> _keys.PrivateKey:
    """Generate the key of a number, which stays the same."""
    del number
    return generate(key_type)
