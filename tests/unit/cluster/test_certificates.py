"""Certificates of a run: who gets one, what it is good for, and what is left on the disk."""

from __future__ import annotations

import asyncio
import datetime as dt
import logging
import os
import ssl
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from aiomas import SSLCerts
from aiomas.cluster import certificates
from aiomas.cluster.certificates import (
    DRIVER,
    LOOPBACK,
    PASSPHRASE,
    RunAuthority,
    contexts_for_driver,
    driver_credentials,
    make_key_and_request,
    write_credentials,
)
from aiomas.exceptions import ClusterError
from aiomas.tls import make_ssl_client_context
from pki import authority
from pki.store import Root, Store
from tests.tls.world import refused, talk, talk_both_ways, worker

DAY = dt.timedelta(days=1)


def now() -> dt.datetime:
    """Return the time: tests of a long run begin long after they were imported."""
    return dt.datetime.now(dt.UTC)


@pytest.fixture(scope="module")
def run():
    return RunAuthority.temporary("run-1a2b3c")


@pytest.fixture
def ca(tmp_path):
    """A directory as `aiomas pki init` makes it."""
    Store.create(tmp_path / "ca", Root("plant", "ec-p256", 3650))
    return tmp_path / "ca"


@pytest.fixture
def locked(tmp_path, monkeypatch):
    """One whose key is encrypted."""
    monkeypatch.delenv(PASSPHRASE, raising=False)
    Store.create(tmp_path / "ca", Root("plant", "ec-p256", 3650), passphrase="swordfish")
    return tmp_path / "ca"


@pytest.fixture
def no_umask():
    before = os.umask(0)
    yield
    os.umask(before)


def certified(run: RunAuthority, directory: Path, host: str = "host", addresses=LOOPBACK):
    """Do what a host and the driver do together."""
    key, csr = make_key_and_request(host, addresses)
    certificate = run.sign(csr, host, addresses)
    return write_credentials(directory, key, certificate, run.trusted, run.crl)


def info_of(certs: SSLCerts) -> authority.CertificateInfo:
    return authority.inspect(Path(certs.certfile).read_bytes())


def mode(path: object) -> int:
    return stat.S_IMODE(Path(str(path)).stat().st_mode)


# --- what is certified ----------------------------------------------------------------------------


def test_host_is_named_by_the_run_and_reached_at_its_addresses(run, tmp_path):
    info = info_of(certified(run, tmp_path / "tls", "node7", ["node7.example", "10.0.0.7"]))
    assert str(info.names) == "DNS:node7.example, IP:10.0.0.7, URI:spiffe://run-1a2b3c/node7"
    assert info.name == "node7"
    assert run.name == "run-1a2b3c"


def test_certificates_are_valid_for_days_and_begin_in_the_past(run, tmp_path):
    ca = authority.inspect(run.trusted)
    device = info_of(certified(run, tmp_path / "tls"))
    for info in (ca, device):
        assert info.not_before < now()
        assert now() + 29 * DAY < info.not_after <= now() + 31 * DAY
    longer = RunAuthority.temporary("long", days=200)
    device = info_of(certified(longer, tmp_path / "long"))
    assert device.not_after > now() + 199 * DAY


def test_two_runs_of_one_name_have_authorities_of_different_names():
    one, other = (authority.inspect(RunAuthority.temporary("a").trusted) for _ in range(2))
    assert one.subject != other.subject
    assert one.key == "ec-p256"


@pytest.mark.parametrize("name", ["r" * 64, "a", "Run.1_x-y"])
def test_each_name_of_a_run_is_good_for_an_authority(name, tmp_path):
    run = RunAuthority.temporary(name)
    assert info_of(certified(run, tmp_path / "tls")).issuer


def test_bad_parameters_of_an_authority_are_said():
    with pytest.raises(ClusterError, match=r"certificates of run '':.*name"):
        RunAuthority.temporary("")


@pytest.mark.parametrize("days", [0, 366])
def test_days_that_no_certificate_can_have_are_refused(ca, days):
    with pytest.raises(ClusterError, match=f"days={days}.*1 to 365"):
        RunAuthority.temporary("x", days=days)
    with pytest.raises(ClusterError, match=f"days={days}.*1 to 365"):
        RunAuthority.of_directory(ca, days=days)


# --- who is refused -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "addresses"),
    [
        ("other", ["127.0.0.1", "localhost"]),
        ("host", ["127.0.0.1", "localhost", "10.0.0.9"]),
        ("host", ["127.0.0.1", "localhost", "node9.example"]),
        ("host", ["10.0.0.9", "localhost"]),
        ("host", ["127.0.0.1"]),
        (DRIVER, ["127.0.0.1", "localhost"]),
    ],
)
def test_host_gets_no_names_but_its_own(run, host, addresses):
    _, csr = make_key_and_request(host, addresses)
    with pytest.raises(ClusterError, match="certificate of 'host': it was asked for as"):
        run.sign(csr, "host", LOOPBACK)


@pytest.mark.parametrize("name", [DRIVER, "other"])
def test_host_gets_no_identity_but_its_own(run, name):
    key = authority.make_key()
    names = authority.parse_names(LOOPBACK, uris=[f"spiffe://run-1a2b3c/{name}"])
    csr = authority.make_request("host", names, key)
    with pytest.raises(ClusterError, match=f"it was asked for as 'host' with .*/{name}"):
        run.sign(csr, "host", LOOPBACK)


def test_names_are_compared_in_their_normal_form(run):
    _, csr = make_key_and_request("host", ["LOCALHOST", "::1", "0:0:0:0:0:0:0:1"])
    run.sign(csr, "host", ["0::1", "localhost."])
    names = authority.parse_names(LOOPBACK, uris=["spiffe://run-1a2b3c/host"])
    run.sign(authority.make_request("host", names, authority.make_key()), "host", LOOPBACK)


def test_no_host_is_called_as_the_driver_is(run):
    _, csr = make_key_and_request(DRIVER)
    with pytest.raises(ClusterError, match="no host of a run can be called 'driver'"):
        run.sign(csr, DRIVER, LOOPBACK)


@pytest.mark.parametrize("csr", [b"", b"no request", b"\xff" * 100_000])
def test_what_is_no_request_is_an_error(run, csr):
    with pytest.raises(ClusterError, match=r"certificate of 'host': .*signing request"):
        run.sign(csr, "host", LOOPBACK)


def test_request_that_was_changed_is_not_signed(run):
    one, other = (make_key_and_request("host")[1].splitlines() for _ in range(2))
    # The end is the signature.
    mixed = b"\n".join([*one[:-3], *other[-3:]]) + b"\n"
    with pytest.raises(ClusterError, match="certificate of 'host'"):
        run.sign(mixed, "host", LOOPBACK)


@pytest.mark.parametrize(
    ("host", "addresses", "message"),
    [("a/b", LOOPBACK, "path separator"), ("h", [], "neither"), ("h", ["a b"], "a b")],
)
def test_names_that_fit_into_no_certificate_are_said(host, addresses, message):
    with pytest.raises(ClusterError, match=f"certificate of '{host}': .*{message}"):
        make_key_and_request(host, addresses)


# --- connections ----------------------------------------------------------------------------------


@pytest.mark.parametrize("host", LOOPBACK)
async def test_driver_and_host_call_each_other(run, tmp_path, host):
    await talk_both_ways(
        contexts_for_driver(driver_credentials(run), tmp_path),
        certified(run, tmp_path / "tls"),
        host,
    )


async def test_each_end_knows_who_the_other_is(run, tmp_path):
    async with (
        worker(contexts_for_driver(driver_credentials(run), tmp_path)) as driver,
        worker(certified(run, tmp_path / "tls", "node7")) as host,
    ):
        await (await host.container.connect(driver.addr)).echo(1)
        await (await driver.container.connect(host.addr)).echo(1)
    assert driver.callers[0].uri == "spiffe://run-1a2b3c/node7"
    assert host.callers[0].uri == "spiffe://run-1a2b3c/driver"


async def test_runs_do_not_mix(run, tmp_path):
    # Of the same name: it is the key that counts.
    stranger = RunAuthority.temporary("run-1a2b3c")
    host = certified(stranger, tmp_path / "tls")
    await refused(
        contexts_for_driver(driver_credentials(run), tmp_path),
        host,
        "unable to get local issuer|self-signed",
    )
    await refused(
        host,
        contexts_for_driver(driver_credentials(run), tmp_path),
        "unable to get local issuer|self-signed",
    )
    # Who knows our authority, but has a certificate of another, is refused by the server.
    known = certified(run, tmp_path / "of-run").cafile
    knowing = host._replace(cafile=known)
    await refused(
        contexts_for_driver(driver_credentials(run), tmp_path), knowing, "UNKNOWN_CA|unknown ca"
    )


async def test_who_answers_has_to_have_the_address(run, tmp_path):
    elsewhere = certified(run, tmp_path / "tls", "node7", ["10.0.0.7", "node7.example"])
    driver = contexts_for_driver(driver_credentials(run), tmp_path)
    await refused(elsewhere, driver, "IP address mismatch", "127.0.0.1")
    await refused(elsewhere, driver, "Hostname mismatch", "localhost")
    await talk(driver, elsewhere, "127.0.0.1")  # the address of who dials does not count


async def test_many_processes_can_use_the_same_files(run, tmp_path):
    certs = certified(run, tmp_path / "tls")
    async with worker(certs) as one, worker(certs) as other, worker(certs) as third:
        proxies = [await one.container.connect(peer.addr) for peer in (other, third)]
        assert await asyncio.gather(*(proxy.echo(2) for proxy in proxies)) == [2, 2]


# --- files ----------------------------------------------------------------------------------------


@pytest.mark.usefixtures("no_umask")
@pytest.mark.parametrize("umask", [0, 0o777], ids=oct)
def test_only_their_owner_can_read_the_files(run, tmp_path, umask):
    os.umask(umask)
    certs = certified(run, tmp_path / "tls")
    assert mode(tmp_path / "tls") == 0o700
    assert {mode(path) for path in certs} == {0o600}
    assert sorted(path.name for path in (tmp_path / "tls").iterdir()) == [
        "certificate.pem",
        "key.pem",
        "trusted.pem",
    ]


def test_directory_that_is_open_to_others_is_closed(run, tmp_path):
    (tmp_path / "tls").mkdir()
    (tmp_path / "tls").chmod(0o777)
    certified(run, tmp_path / "tls")
    assert mode(tmp_path / "tls") == 0o700


def test_files_are_replaced(run, tmp_path):
    first = info_of(certified(run, tmp_path / "tls"))
    certs = certified(run, tmp_path / "tls")
    assert info_of(certs).serial != first.serial
    make_ssl_client_context(*certs)
    assert len(list((tmp_path / "tls").iterdir())) == 3


def test_files_are_not_written_where_somebody_else_points(run, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "tls").symlink_to("elsewhere")
    with pytest.raises(ClusterError, match="tls is no directory of this user"):
        certified(run, tmp_path / "tls")
    (tmp_path / "file").touch()
    with pytest.raises(ClusterError, match="file is no directory of this user"):
        certified(run, tmp_path / "file")
    # A link in the place of a file is replaced, and what it leads to is left alone.
    victim = tmp_path / "victim"
    victim.write_text("mine")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "key.pem").symlink_to(victim)
    certified(run, tmp_path / "mine")
    assert victim.read_text() == "mine"
    assert not list((tmp_path / "elsewhere").iterdir())


def test_nothing_half_written_is_left(run, tmp_path, monkeypatch):
    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        certified(run, tmp_path / "tls")
    assert not list((tmp_path / "tls").iterdir())


def test_driver_leaves_no_key_on_the_disk(run, tmp_path, temporary_folder, monkeypatch):
    seen = []

    def look(*certs):
        seen.append({mode(path) for path in certs if path} | {mode(Path(certs[2]).parent)})
        assert Path(certs[2]).is_relative_to(tmp_path)  # what is swept if we are killed now
        return make_ssl_client_context(*certs)

    monkeypatch.setattr(certificates, "make_ssl_client_context", look)
    before = set(temporary_folder.iterdir())
    contexts_for_driver(driver_credentials(run), tmp_path)
    assert seen == [{0o600, 0o700}]
    assert set(temporary_folder.iterdir()) == before
    assert not list(tmp_path.iterdir())


def test_driver_leaves_no_key_on_the_disk_if_it_cannot_be_loaded(run, tmp_path, monkeypatch):
    def fail(*_):
        raise ssl.SSLError("no such luck")

    monkeypatch.setattr(certificates, "make_ssl_client_context", fail)
    with pytest.raises(ssl.SSLError, match="no such luck"):
        contexts_for_driver(driver_credentials(run), tmp_path)
    assert not list(tmp_path.iterdir())


def test_who_needs_no_certificates_does_not_pay_for_them():
    code = (
        "import sys, aiomas.cluster.certificates\n"
        "print([name for name in ('pki', 'cryptography') if name in sys.modules])"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30)
    assert done.stdout == "[]\n"


# --- a directory of `aiomas pki` ------------------------------------------------------------------


def test_the_directory_of_a_test_deployment_has_its_authority_within(ca):
    assert RunAuthority.of_directory(ca.parent).name == "plant"
    with pytest.raises(ClusterError, match=f"`aiomas pki init {ca / 'issued'}` makes it"):
        RunAuthority.of_directory(ca / "issued")


async def test_directory_certifies_driver_and_hosts(ca, tmp_path):
    run = RunAuthority.of_directory(ca)
    certs = certified(run, tmp_path / "tls", "node7")
    assert certs.crlfile is not None
    assert mode(certs.crlfile) == 0o600
    await talk_both_ways(contexts_for_driver(driver_credentials(run), tmp_path), certs)
    issued = Store(ca).index().issued.values()
    assert [entry.name for entry in issued] == ["node7", DRIVER]
    for entry in issued:
        assert authority.inspect(Store(ca).issued(entry)).serial == entry.serial
        assert entry.place is None
        assert entry.not_after < now() + 31 * DAY
    assert (ca / "log").read_text().count('"action": "sign"') == 2
    assert str(info_of(certs).names).endswith("spiffe://plant/node7")


async def test_who_was_revoked_is_not_in_the_next_run(ca, tmp_path):
    before = certified(RunAuthority.of_directory(ca), tmp_path / "tls", "node7")
    with Store(ca).signing() as signer:
        signer.revoke(Store(ca).find("node7"))
    driver = contexts_for_driver(driver_credentials(RunAuthority.of_directory(ca)), tmp_path)
    await refused(before, driver, "certificate revoked")


def test_directory_is_free_while_the_run_lasts(ca, tmp_path):
    run = RunAuthority.of_directory(ca)
    store = Store(ca, lock_timeout=0)
    with store.signing() as signer:
        signer.certify(make_key_and_request("device")[1])
    certified(run, tmp_path / "tls")
    assert len(store.index().issued) == 2


async def test_authority_may_get_a_new_generation_while_the_run_lasts(locked, tmp_path):
    run = RunAuthority.of_directory(locked, "swordfish")
    first = certified(run, tmp_path / "one", "one")
    with Store(locked).signing("swordfish") as signer:
        signer.rotate(passphrase="swordfish")
    second = certified(run, tmp_path / "two", "two")
    assert info_of(first).issuer != info_of(second).issuer
    assert len(authority.split(run.trusted)) == 2
    trusting = write_credentials(tmp_path / "trusted", b"", b"", run.trusted, run.crl)
    both = [c._replace(cafile=trusting.cafile, crlfile=trusting.crlfile) for c in (first, second)]
    await talk_both_ways(*both)


def test_key_is_decrypted_once(locked, monkeypatch):
    run = RunAuthority.of_directory(locked, "swordfish")
    monkeypatch.setattr(authority, "load_authority", None)
    _, csr = make_key_and_request("host")
    assert run.sign(csr, "host", LOOPBACK)


def test_passphrase_is_found_in_the_environment(locked, monkeypatch):
    monkeypatch.setenv(PASSPHRASE, "swordfish")
    assert RunAuthority.of_directory(locked).name == "plant"
    monkeypatch.setenv(PASSPHRASE, "other")
    with pytest.raises(ClusterError, match="passphrase is wrong") as caught:
        RunAuthority.of_directory(locked)
    assert "other" not in str(caught.value)
    assert RunAuthority.of_directory(locked, "swordfish").name == "plant"


def test_passphrase_in_the_environment_does_no_harm_to_a_plain_key(ca, monkeypatch):
    monkeypatch.setenv(PASSPHRASE, "swordfish")
    assert RunAuthority.of_directory(ca).name == "plant"


@pytest.mark.parametrize("value", [None, ""])
def test_missing_passphrase_is_said(locked, monkeypatch, value):
    if value is not None:
        monkeypatch.setenv(PASSPHRASE, value)
    with pytest.raises(ClusterError, match=f"pki='{locked}': .*encrypted.*{PASSPHRASE}"):
        RunAuthority.of_directory(locked)


def test_directory_without_authority_is_said(tmp_path):
    with pytest.raises(ClusterError, match=r"there is no such directory.*aiomas pki init"):
        RunAuthority.of_directory(tmp_path / "nothing")
    (tmp_path / "file").touch()
    with pytest.raises(ClusterError, match="it is no directory"):
        RunAuthority.of_directory(tmp_path / "file")
    with pytest.raises(ClusterError, match="is not there: `aiomas pki init"):
        RunAuthority.of_directory(tmp_path)


def test_key_that_others_can_read_is_not_used(ca):
    (ca / "ca.key").chmod(0o644)
    with pytest.raises(ClusterError, match=r"can be read or changed by others.*chmod 600"):
        RunAuthority.of_directory(ca)


def aged(directory: Path, monkeypatch, days: int, **options) -> Path:
    """Make an authority that was made *days* ago."""
    past = now() - days * DAY
    with monkeypatch.context() as patch:
        patch.setattr(authority, "_aware", lambda now: now or past)
        Store.create(directory, Root("plant", "ec-p256", options.pop("ca_days", 3650)), **options)
    return directory


def test_authority_that_has_expired_is_said(tmp_path, monkeypatch):
    ca = aged(tmp_path / "ca", monkeypatch, 100, ca_days=99)
    with pytest.raises(ClusterError, match=r"CA was good until .* UTC.*aiomas pki rotate"):
        RunAuthority.of_directory(ca)


def test_stale_revocation_list_is_said(tmp_path, monkeypatch):
    ca = aged(tmp_path / "ca", monkeypatch, 100, crl_days=99)
    with pytest.raises(ClusterError, match=r"revocation list was good until .*aiomas pki crl"):
        RunAuthority.of_directory(ca)


def test_authority_that_expires_soon_is_said_and_certificates_end_with_it(
    tmp_path, monkeypatch, caplog
):
    ca = aged(tmp_path / "ca", monkeypatch, 90, ca_days=100, crl_days=200)
    with caplog.at_level(logging.WARNING, "aiomas.cluster"):
        run = RunAuthority.of_directory(ca)
    [record] = caplog.records
    assert record.getMessage().startswith(f"The CA in {ca} is good until ")
    assert f"`aiomas pki rotate --ca {ca}` makes a new one" in record.getMessage()
    end = info_of(certified(run, tmp_path / "tls")).not_after
    assert end == authority.inspect(run.trusted).not_after


def test_names_that_the_authority_does_not_permit_are_said(tmp_path):
    root = Root("plant", "ec-p256", 3650, permit_dns=("plant.example",), permit_ips=("10.0.0.0/8",))
    Store.create(tmp_path / "ca", root)
    run = RunAuthority.of_directory(tmp_path / "ca")
    with pytest.raises(ClusterError, match=r"certificate of 'driver': .*127\.0\.0\.1"):
        contexts_for_driver(driver_credentials(run), tmp_path)
    assert not Store(tmp_path / "ca").index().issued
