"""The key of a host for TLS, from its making until the containers there have it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from aiomas.cluster import certificates
from aiomas.cluster.part import Part
from aiomas.cluster.zygote import ForkServer

Signed = tuple[bytes, bytes, bytes | None]
"""The certificate of a host, those that it trusts, and their revocation list (PEM)."""


class HostKey:
    """A new key.

    Args:
        part: of the host whose key it is.
    """

    def __init__(self, part: Part) -> None:
        names = certificates.names_of(part.address)
        self._key, self.request = certificates.make_key_and_request(part.host, names)

    async def load(self, signed: Signed, directory: Path, fork: ForkServer) -> None:
        """Let all containers that are started from now on have the key and what belongs to it.

        Args:
            signed: what the driver has made of the request.
            directory: where the files are meanwhile; it does not exist yet, and is removed.
            fork: starts the containers.
        """
        certificate, trusted, crl = signed
        certs = certificates.write_credentials(directory, self._key, certificate, trusted, crl)
        paths = [None if path is None else os.fspath(path) for path in certs]
        try:
            await fork.prepare("aiomas.cluster.worker:load_tls", paths)
        finally:
            shutil.rmtree(directory, ignore_errors=True)  # nobody reads the files again
