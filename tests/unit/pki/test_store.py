"""The directory of an authority, without the command."""

from __future__ import annotations

import datetime as dt
import json
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from pki import authority
from pki._index import Index, Root, now, status_of
from pki._signer import listed, split_crl
from pki.authority import PkiError, Severity
from pki.store import Store, StoreError

ROOT = Path(__file__).parents[3]
NAMES = authority.parse_names(["node1.example"])


@pytest.fixture
def store(tmp_path):
    return Store.create(tmp_path / "ca", Root("plant", "ec-p256", 100))


def names_in(directory):
    return sorted(path.name for path in directory.iterdir())


def issue(store, directory, name="node1"):
    with store.signing() as signer:
        return signer.issue(name, NAMES, directory)


def revoked_in(store):
    return {entry.serial for entry in listed(store.crl())}


def log_of(store):
    return [json.loads(line) for line in (store.directory / "log").read_text().splitlines()]


def test_new_authority_has_what_belongs_to_it(store):
    assert names_in(store.directory) == [
        "ca.key",
        "ca.pem",
        "crl.pem",
        "index.json",
        "issued",
        "log",
    ]
    modes = {
        path.name: stat.S_IMODE(path.stat().st_mode)
        for path in [store.directory, *store.directory.iterdir()]
    }
    assert modes["ca"] == modes["issued"] == 0o700
    assert modes["ca.key"] == 0o600
    assert revoked_in(store) == set()
    assert authority.read_crl(store.crl(), store.certificate()).number == 1


def test_authority_is_not_replaced_unasked(store):
    before = store.key()

    with pytest.raises(FileExistsError, match="there already"):
        Store.create(store.directory, Root("other", "ec-p256", 100))
    assert store.key() == before

    Store.create(store.directory, Root("other", "ec-p256", 100), force=True)
    [aside] = store.directory.glob("replaced-*")
    assert (aside / "ca.key").read_bytes() == before
    assert Store(store.directory).index().root.name == "other"


def test_directory_without_authority_is_an_error(tmp_path):
    with pytest.raises(StoreError, match="is not there"):
        Store(tmp_path)
    (tmp_path / "ca.key").touch()
    with pytest.raises(StoreError, match="was not completed"):
        Store(tmp_path)


def test_issued_set_is_good_and_recorded(store, tmp_path):
    entry = issue(store, tmp_path / "node1")

    key = (tmp_path / "node1" / "device.key").read_bytes()
    certificate = (tmp_path / "node1" / "device.pem").read_bytes()
    ca = (tmp_path / "node1" / "ca.pem").read_bytes()
    findings = authority.check(certificate, ca, key=key, hosts=["node1.example"])
    assert authority.worst(findings) is Severity.GOOD
    assert store.issued(entry) == certificate
    assert store.find("node1") == store.find(entry.serial.upper()) == (entry,)
    assert store.find(str(tmp_path / "node1" / "device.pem")) == (entry,)
    assert store.place(entry) == (tmp_path / "node1" / "device.pem").resolve()
    assert [(line["action"], line["serial"], line["subject"]) for line in log_of(store)][1:] == [
        ("issue", entry.serial, entry.subject)
    ]


def test_tree_can_be_moved(store, tmp_path):
    entry = issue(store, tmp_path / "node1")
    (tmp_path / "elsewhere").mkdir()
    for name in ("ca", "node1"):
        (tmp_path / name).rename(tmp_path / "elsewhere" / name)

    moved = Store(tmp_path / "elsewhere" / "ca")

    assert moved.place(entry) == (tmp_path / "elsewhere" / "node1" / "device.pem").resolve()


def test_nothing_is_issued_that_could_not_be_written(store, tmp_path):
    (tmp_path / "node1").mkdir()
    (tmp_path / "node1" / "device.key").write_bytes(b"somebody's")

    with pytest.raises(FileExistsError, match=r"device\.key"):
        issue(store, tmp_path / "node1")

    assert store.index().issued == {}
    assert names_in(store.directory / "issued") == []


def test_devices_files_are_not_written_into_the_authority(store):
    with pytest.raises(StoreError, match="authority's own directory"):
        issue(store, store.directory)
    with pytest.raises(StoreError, match="authority's own directory"):
        issue(store, store.directory / "issued" / "node1")


def test_certificate_without_a_file_is_recorded_and_can_be_revoked(store):
    csr = authority.make_request("node1", NAMES, authority.make_key())
    with store.signing() as signer:
        certificate = signer.certify(csr, name="other", days=7)
    [entry] = store.find("other")
    assert store.issued(entry) == certificate
    assert store.place(entry) is None
    assert entry.not_after - entry.not_before < dt.timedelta(days=7)
    assert log_of(store)[-1]["action"] == "sign"
    assert Index.from_json(store.index().to_json(), "here").issued[entry.serial] == entry
    with store.signing() as signer:
        signer.revoke([entry], reason="keyCompromise")
        with pytest.raises(StoreError, match="the key was revoked as compromised"):
            signer.certify(csr)
    assert revoked_in(store) == {entry.serial}


def test_key_that_is_loaded_is_used_again_until_there_is_another(store, monkeypatch):
    with store.signing() as signer:
        first = signer.authority
    with monkeypatch.context() as patch:
        patch.setattr(authority, "load_authority", None)
        with store.signing(ready=first) as signer:
            assert signer.authority is first
    with store.signing(ready=first) as signer:
        signer.rotate()
    with store.signing(ready=first) as signer:
        assert signer.authority.certificate == store.certificate() != first.certificate


def test_revocation_list_says_until_when_it_is_good(store):
    assert abs(store.crl_until() - now() - dt.timedelta(days=90)) < dt.timedelta(minutes=10)
    with store.signing() as signer:
        signer.rotate()
        signer.publish(days=3)
    assert abs(store.crl_until() - now() - dt.timedelta(days=3)) < dt.timedelta(minutes=10)
    (store.directory / "crl.pem").write_bytes(b"")
    with pytest.raises(PkiError, match="no revocation list in it"):
        store.crl_until()


def test_name_and_file_that_are_called_the_same_are_not_guessed(store, tmp_path, monkeypatch):
    issue(store, tmp_path / "x")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "node1").write_bytes((tmp_path / "x" / "device.pem").read_bytes())

    with pytest.raises(StoreError, match=r"write \./node1"):
        store.find("node1")

    assert len(store.find("./node1")) == 1


def test_renewal_takes_the_place_and_the_old_one_can_be_revoked(store, tmp_path):
    old = issue(store, tmp_path / "node1")
    file = tmp_path / "node1" / "device.pem"
    key = (tmp_path / "node1" / "device.key").read_bytes()

    with store.signing() as signer:
        new = signer.renew(file)

    info = authority.inspect(file.read_bytes())
    assert info.serial == new.serial != old.serial
    assert info.key_fingerprint == authority.inspect(store.issued(old)).key_fingerprint
    assert (tmp_path / "node1" / "device.key").read_bytes() == key
    index = store.index()
    statuses = [status_of(entry, index.replaced(), now()) for entry in index.issued.values()]
    assert statuses == ["replaced", "valid"]
    with store.signing() as signer:
        signer.revoke([old])
    assert revoked_in(store) == {old.serial}


def test_renewal_with_a_new_key_replaces_both(store, tmp_path):
    issue(store, tmp_path / "node1")
    key_file = tmp_path / "node1" / "device.key"
    before = key_file.read_bytes()

    with store.signing() as signer:
        signer.renew(tmp_path / "node1" / "device.pem", new_key=True)

    certificate = (tmp_path / "node1" / "device.pem").read_bytes()
    key = key_file.read_bytes()
    assert key != before
    assert authority.worst(authority.check(certificate, store.trusted(), key=key)) is Severity.GOOD
    assert stat.S_IMODE(key_file.stat().st_mode) == 0o600


def test_new_key_is_made_only_where_the_old_one_is(store, tmp_path):
    issue(store, tmp_path / "node1")
    (tmp_path / "node1" / "device.key").unlink()

    with pytest.raises(StoreError, match="only beside the old one"), store.signing() as signer:
        signer.renew(tmp_path / "node1" / "device.pem", new_key=True)

    assert len(store.index().issued) == 1


def test_revoked_certificate_is_not_renewed(store, tmp_path):
    entry = issue(store, tmp_path / "node1")
    with store.signing() as signer:
        signer.revoke([entry])

    with pytest.raises(StoreError, match="was revoked"), store.signing() as signer:
        signer.renew(tmp_path / "node1" / "device.pem")


def test_revocation_is_listed_at_once_with_a_greater_number(store, tmp_path):
    entry = issue(store, tmp_path / "node1")

    with store.signing() as signer:
        signer.revoke([entry], reason="keyCompromise", days=5)
        again = signer.revoke([entry])

    [crl] = [authority.read_crl(part, store.certificate()) for part in split_crl(store.crl())]
    assert [(item.serial, item.reason) for item in crl.revoked] == [(entry.serial, "keyCompromise")]
    assert again == ()
    assert crl.number == 3


def test_revocation_that_a_crash_kept_out_of_the_list_is_listed_by_the_next(store, tmp_path):
    entry = issue(store, tmp_path / "node1")
    before = store.crl()
    with store.signing() as signer:
        signer.revoke([entry])
    (store.directory / "crl.pem").write_bytes(before)

    with store.signing():
        pass

    assert revoked_in(store) == {entry.serial}


@pytest.mark.parametrize("damage", [None, b"", b"what?"])
def test_damaged_revocation_list_is_written_anew(store, damage):
    if damage is None:
        (store.directory / "crl.pem").unlink()
    else:
        (store.directory / "crl.pem").write_bytes(damage)

    with store.signing():
        pass

    assert authority.read_crl(store.crl(), store.certificate()).number == 2


def test_expired_certificates_leave_the_list_after_a_week(store, tmp_path):
    entry = issue(store, tmp_path / "node1")
    with store.signing() as signer:
        signer.revoke([entry])
    index = store.index()
    [generation] = index.generations

    def at(days):
        return index.revocations(generation, entry.not_after + dt.timedelta(days=days))

    assert [item.serial for item in at(6)] == [entry.serial]
    assert at(8) == []


class TestRotation:
    def test_both_generations_are_trusted_until_the_end(self, store, tmp_path):
        old_ca = store.certificate()
        first = issue(store, tmp_path / "node1")
        with store.signing() as signer:
            signer.rotate()
        issue(store, tmp_path / "node2", "node2")

        new_ca = store.certificate()
        assert store.trusted() == authority.bundle(new_ca, old_ca)
        assert [authority.read_crl(part).issuer for part in split_crl(store.crl())] == [
            authority.inspect(new_ca).subject,
            authority.inspect(old_ca).subject,
        ]
        for name, ca in [("node1", old_ca), ("node2", new_ca)]:
            certificate = (tmp_path / name / "device.pem").read_bytes()
            for trusted in (ca, store.trusted()):
                found = authority.check(certificate, trusted, crl=store.crl())
                assert authority.worst(found) is Severity.GOOD
        assert (tmp_path / "node2" / "ca.pem").read_bytes() == store.trusted()

        with store.signing() as signer:
            signer.revoke([first])
        assert revoked_in(store) == {first.serial}

    def test_end_waits_for_renewals(self, store, tmp_path):
        issue(store, tmp_path / "node1")
        with store.signing() as signer:
            signer.rotate()
        with pytest.raises(StoreError, match="in use by node1"), store.signing() as signer:
            signer.finish()

        with store.signing() as signer:
            signer.renew(tmp_path / "node1" / "device.pem")
            signer.finish()

        assert store.trusted() == store.certificate()
        assert not (store.directory / "previous").exists()
        assert len(split_crl(store.crl())) == 1
        certificate = (tmp_path / "node1" / "device.pem").read_bytes()
        assert authority.worst(authority.check(certificate, store.trusted())) is Severity.GOOD

    def test_renewal_brings_the_trust_of_a_device_up_to_date(self, store, tmp_path):
        issue(store, tmp_path / "node1")
        with store.signing() as signer:
            signer.rotate()
            signer.renew(tmp_path / "node1" / "device.pem")

        assert (tmp_path / "node1" / "ca.pem").read_bytes() == store.trusted()

    def test_somebody_elses_choice_whom_to_trust_stays(self, store, tmp_path):
        other = Store.create(tmp_path / "other", Root("other", "ec-p256", 100)).certificate()
        issue(store, tmp_path / "node1")
        (tmp_path / "node1" / "ca.pem").write_bytes(other)

        with store.signing() as signer:
            signer.renew(tmp_path / "node1" / "device.pem")

        assert (tmp_path / "node1" / "ca.pem").read_bytes() == other

    def test_next_one_has_the_same_kind_and_constraints(self, tmp_path):
        root = Root("plant", "ec-p256", 100, permit_dns=("plant.example",))
        store = Store.create(tmp_path / "ca", root, passphrase="secret")
        with store.signing("secret") as signer:
            signer.rotate(passphrase="secret")

        assert authority.is_encrypted(store.key())
        with pytest.raises(PkiError), store.signing("secret") as signer:
            signer.issue("x", authority.parse_names(["elsewhere.example"]), tmp_path / "x")
        with pytest.raises(StoreError, match="not finished"), store.signing("secret") as signer:
            signer.rotate(passphrase="secret")


def test_key_that_others_can_read_is_refused(store, tmp_path):
    (store.directory / "ca.key").chmod(0o640)

    with pytest.raises(StoreError, match="--allow-readable-key"):
        issue(store, tmp_path / "node1")

    issue(Store(store.directory, allow_readable_key=True), tmp_path / "node1")


def test_wrong_passphrase_changes_nothing_and_is_not_repeated(tmp_path):
    store = Store.create(tmp_path / "ca", Root("plant", "ec-p256", 100), passphrase="right")

    with pytest.raises(PkiError) as caught, store.signing("wr0ng"):
        pass

    assert "wr0ng" not in str(caught.value)
    assert len(log_of(store)) == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "damaged"),
        (b"[]", "damaged"),
        (b"{}", "damaged"),
        (b'{"version": 1}', "damaged"),
        (b'{"version": 2}', "has version 2"),
    ],
)
def test_damaged_index_is_said_to_be(store, content, message):
    (store.directory / "index.json").write_bytes(content)

    with pytest.raises(StoreError, match=message):
        store.index()


def test_index_reads_what_it_wrote(store, tmp_path):
    entry = issue(store, tmp_path / "node1")
    with store.signing() as signer:
        signer.revoke([entry], reason="superseded")

    index = store.index()

    assert Index.from_json(index.to_json(), "here") == index


ISSUE_MANY = """
import sys
from pathlib import Path
from pki import authority
from pki.store import Store
ca, out, worker = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
for number in range(5):
    name = f"{worker}-{number}"
    with Store(ca, lock_timeout=60).signing() as signer:
        entry = signer.issue(name, authority.parse_names(["a.example"]), out / name)
    if number % 2:
        with Store(ca, lock_timeout=60).signing() as signer:
            signer.revoke([entry])
"""


def test_processes_at_once_lose_nothing(store, tmp_path):
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", ISSUE_MANY, store.directory, tmp_path / "out", str(worker)],
            cwd=ROOT,
        )
        for worker in range(4)
    ]
    assert [worker.wait(60) for worker in workers] == [0] * 4

    index = store.index()
    assert len(index.issued) == 20
    assert {path.stem for path in (store.directory / "issued").iterdir()} == set(index.issued)
    assert {entry.serial for entry in index.issued.values() if entry.revoked} == revoked_in(store)
    assert len(revoked_in(store)) == 8
    assert index.crl_number == 9
    assert len(log_of(store)) == 1 + 20 + 8 + 8


def test_waiting_for_another_process_has_an_end(store):
    impatient = Store(store.directory, lock_timeout=0.1)
    with (
        store.signing(),
        pytest.raises(StoreError, match="in use by another process"),
        impatient.signing(),
    ):
        pass


def test_user_of_sudo_is_in_the_log(store, monkeypatch):
    monkeypatch.setenv("SUDO_USER", "alice")

    with store.signing() as signer:
        signer.publish()

    assert log_of(store)[-1]["by"] == "alice"
    assert now() - dt.datetime.fromisoformat(log_of(store)[-1]["time"]) < dt.timedelta(minutes=1)


def test_renewal_elsewhere_replaces_only_a_certificate_and_only_if_asked(store, tmp_path):
    entry = issue(store, tmp_path / "node1")
    file, key = tmp_path / "node1" / "device.pem", tmp_path / "node1" / "device.key"
    other = tmp_path / "other.pem"
    other.write_bytes(file.read_bytes())
    before = key.read_bytes()

    with store.signing() as signer:
        for out in (key, other):
            with pytest.raises(FileExistsError, match="--force"):
                signer.renew(file, out=out)
        with pytest.raises(StoreError, match="no certificate"):
            signer.renew(file, out=key, replace=True)
        assert list(store.index().issued) == [entry.serial]
        new = signer.renew(file, out=other, replace=True)

    assert key.read_bytes() == before
    assert authority.inspect(other.read_bytes()).serial == new.serial
