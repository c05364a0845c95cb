"""Keys and files are quick where it is not their making that is looked at."""

from __future__ import annotations

import contextlib
import functools
import itertools
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pki import _keys, _pkcs8
from pki._values import KeyType

FEW_ROUNDS = 1000

MEMORY = Path("/dev/shm")
"""Where a file system may be that is none of a disk (Linux)."""

generate = _keys.generate


@contextlib.contextmanager
def folder_in_memory() -> Iterator[Path]:
    """Make a folder in memory, where that is possible, or on a disk; remove it at the end."""
    with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as folder:
        yield Path(folder).resolve()


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """A folder in memory: thousands of files here would have to wait until a disk has them."""
    with folder_in_memory() as folder:
        yield folder


@pytest.fixture
def slow_keys() -> None:
    """Make each key anew and stretch passphrases with all rounds, as it is outside of tests."""


@pytest.fixture(scope="module", autouse=True)
def quick_keys_of_fixtures() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_keys, "generate", quick_generator(0, 1))
        yield


@pytest.fixture(autouse=True)
def quick_keys(request: pytest.FixtureRequest) -> Iterator[None]:
    """Use some RSA keys again and again, and let few rounds stretch a passphrase."""
    # A `MonkeyPatch` of its own: that of a test is undone before the test's folder is removed.
    with pytest.MonkeyPatch.context() as patch:
        if "slow_keys" in request.fixturenames:
            patch.setattr(_keys, "generate", generate)
        else:
            patch.setattr(_keys, "generate", quick_generator(2, 3))
            patch.setattr(_pkcs8, "ROUNDS", FEW_ROUNDS)
        yield


def quick_generator(*numbers: int) -> Callable[[KeyType], _keys.PrivateKey]:
    """Return a function that takes turns with the RSA keys of these numbers.

    So those of a CA and its device differ, and those of a test from those of its module's fixtures.
    """
    turns = itertools.cycle(numbers)

    def generate_quickly(key_type: KeyType) -> _keys.PrivateKey:
        return rsa_key(key_type, next(turns)) if "rsa" in key_type else generate(key_type)

    return generate_quickly


@functools.cache
def rsa_key(key_type: KeyType, number: int) -> _keys.PrivateKey:
    """Generate the key of a number, which stays the same."""
    del number
    return generate(key_type)
