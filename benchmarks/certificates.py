"""Certificates for mutual TLS, made for one run."""

from __future__ import annotations

from pathlib import Path

from pki import authority


def make(folder: Path) -> None:
    """Make an authority, and a certificate for both ends, as files in *folder*."""
    root = authority.make_root("Benchmarks", days=2)
    names = authority.parse_names(["localhost", "127.0.0.1"])
    signer = authority.load_authority(root.certificate, root.key)
    device = authority.issue(signer, "bench", names, days=1)
    (folder / "trusted.pem").write_bytes(root.certificate)
    (folder / "certificate.pem").write_bytes(device.certificate)
    key = folder / "key.pem"
    key.touch(mode=0o600)  # before there is something in it to read
    key.write_bytes(device.key)
