"""The command, in this process: what it prints, writes and refuses."""

from __future__ import annotations

import ast
import dataclasses
import datetime as dt
import json
import os
import shlex
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from pki import _commands_bootstrap as bootstrapping
from pki import _files, _host, _index, authority
from pki import cli as commands
from pki._terminal import Command
from pki.authority import Severity
from pki.store import Store

SECRET = "tr0ub4dor&3 ü"


@dataclasses.dataclass
class Result:
    code: int
    out: str
    err: str

    @property
    def data(self):
        return json.loads(self.out)


@pytest.fixture
def pki(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("AIOMAS_PKI", raising=False)
    monkeypatch.setenv("SUDO_USER", "tester")

    def run(line, *, code=0, **options):
        result = CliRunner().invoke(commands.pki, shlex.split(line), **options)
        assert result.exit_code == code, result.output
        if code and "check" not in line:
            assert result.stderr.splitlines()[-1].startswith("Error: ")
            assert result.exception is None or isinstance(result.exception, SystemExit)
        return Result(result.exit_code, result.stdout, result.stderr)

    return run


@pytest.fixture
def ca(pki):
    pki("init ca --name plant --key-type ec-p256 --no-passphrase")
    return Path("ca")


def good(folder, *hosts):
    certificate, ca, key = (
        (Path(folder) / name).read_bytes() for name in ("device.pem", "ca.pem", "device.key")
    )
    findings = authority.check(certificate, ca, key=key, hosts=hosts)
    return authority.worst(findings) is Severity.GOOD


def snapshot(folder):
    return {
        path: (path.stat().st_mtime_ns, path.stat().st_ino, path.read_bytes())
        for path in Path(folder).rglob("*")
        if path.is_file()
    }


class TestInit:
    def test_key_is_encrypted_with_the_passphrase_of_a_file(self, pki):
        Path("secret").write_text(f"{SECRET}\nnot this\n")
        Path("secret").chmod(0o600)

        result = pki("init ca --passphrase-file secret")

        key = Path("ca/ca.key").read_bytes()
        authority.load_authority(Path("ca/ca.pem").read_bytes(), key, SECRET)
        assert result.err == ""
        assert all(
            SECRET not in path.read_text() for path in Path("ca").glob("*") if path.is_file()
        )

    def test_passphrase_may_come_from_a_variable_or_from_stdin(self, pki):
        pki("init ca --passphrase-env SECRET", env={"SECRET": SECRET})

        pki("crl --passphrase-file -", input=f"{SECRET}\n")
        pki("crl --passphrase-env SECRET", env={"SECRET": SECRET})
        wrong = pki("crl --passphrase-file -", input="wr0ng\n", code=1)

        assert "passphrase" in wrong.err
        assert "wr0ng" not in wrong.err

    def test_key_without_passphrase_has_a_warning(self, pki):
        result = pki("init ca --no-passphrase")

        assert "is not encrypted" in result.err
        assert not authority.is_encrypted(Path("ca/ca.key").read_bytes())
        assert authority.inspect(Path("ca/ca.pem").read_bytes()).key == "ec-p384"

    def test_passphrase_file_that_others_can_read_has_a_warning(self, pki):
        Path("secret").write_text(SECRET)
        Path("secret").chmod(0o644)

        assert "others can read the passphrase" in pki("init ca --passphrase-file secret").err

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ("", "--passphrase-file, --passphrase-env or --no-passphrase"),
            ("--passphrase-env NOT_THERE", "there is no variable NOT_THERE"),
            ("--passphrase-file not-there", "not-there: No such file"),
            ("--passphrase-file /dev/null", "passphrase is empty"),
            ("--passphrase-env EMPTY", "passphrase is empty"),
            ("--passphrase-env BYTES", "passphrase is not UTF-8"),
            ("--no-passphrase --name ' '", "name"),
            ("--no-passphrase --permit-ip nonsense", "nonsense"),
        ],
    )
    def test_what_is_missing_or_bad_is_named(self, pki, options, message, monkeypatch):
        monkeypatch.setenv("EMPTY", "")
        monkeypatch.setitem(os.environb, b"BYTES", b"\xff\xfe")

        assert message in pki(f"init ca {options}", code=1).err
        assert not Path("ca").exists()

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ("--permit-dns '*.x'", "cannot be permitted"),
            ("--permit-ip 10.0.0.1/8", "cannot be permitted"),
            ("--name Ω", "Latin letter"),
            (f"--name {'x' * 56}", "56 characters"),
        ],
    )
    def test_what_is_bad_is_said_before_a_passphrase_is_asked_for(self, pki, options, message):
        assert message in pki(f"init ca {options}", code=1).err

    def test_two_answers_to_one_question_are_refused(self, pki):
        for options in ("--no-passphrase", "--passphrase-file a"):
            line = f"init ca --passphrase-env X {options}"
            assert "two answers" in pki(line, code=2, env={"X": "x"}).err

    def test_authority_that_is_there_stays(self, pki, ca):
        before = snapshot(ca)

        assert "--force" in pki("init ca --no-passphrase", code=1).err
        assert snapshot(ca) == before

    def test_constraints_hold_for_what_is_issued(self, pki):
        pki("init ca --no-passphrase --permit-dns plant.example --permit-ip 10.0.0.0/8")

        pki("issue a --dns a.plant.example --ip 10.1.2.3")
        assert "b.example" in pki("issue b --dns b.example", code=1).err
        pki("issue c --dns c.plant.example --ip 192.0.2.1", code=1)


class TestRequestAndSign:
    def test_key_stays_on_the_device_and_the_certificate_fits(self, pki, ca):
        requested = pki("request node1 --dns node1.plant.example --ip 10.0.0.3 --out device")
        signed = pki("sign device/device.csr --yes")
        Path("device/ca.pem").write_bytes(Path("ca/ca.pem").read_bytes())

        assert good("device", "node1.plant.example", "10.0.0.3")
        info = authority.inspect(Path("device/device.pem").read_bytes())
        assert info.names.uris == ("spiffe://plant/node1",)
        assert info.key_fingerprint in requested.out
        assert info.key_fingerprint in signed.err
        assert "DNS:node1.plant.example, IP:10.0.0.3, URI:spiffe://plant/node1" in signed.err
        modes = [
            stat.S_IMODE(Path(path).stat().st_mode) for path in ("device", "device/device.key")
        ]
        assert modes == [0o700, 0o600]

    def test_default_names_are_those_of_the_host(self, pki, monkeypatch):
        monkeypatch.setattr(socket, "gethostname", lambda: "machine")
        monkeypatch.setattr(socket, "getfqdn", lambda name: f"{name}.example")
        monkeypatch.setattr(
            _host, "_source", lambda family, target: {"192.0.2.1": "10.0.0.9"}.get(target)
        )

        asked = pki("request node1 --json").data

        assert asked["names"]["dns"] == ["machine", "machine.example", "localhost"]
        assert asked["names"]["ips"] == ["10.0.0.9", "127.0.0.1", "::1"]
        assert Path("device.key").exists()

    def test_host_whose_full_name_nobody_tells_has_its_short_one(self, monkeypatch):
        import threading

        never = threading.Event()
        monkeypatch.setattr(_host, "_PATIENCE", 0.01)
        monkeypatch.setattr(socket, "getfqdn", lambda name: str(never.wait(5)))
        monkeypatch.setattr(socket, "gethostname", lambda: "no_dns_name!")
        before = threading.enumerate()

        names = _host.names_of_host()
        never.set()
        for thread in set(threading.enumerate()) - set(before):
            thread.join()

        assert names.dns == ("localhost",)

    def test_key_and_request_that_are_there_stay(self, pki):
        pki("request node1")
        before = snapshot(".")

        assert "--force" in pki("request node1", code=1).err
        assert snapshot(".") == before
        pki("request node1 --force")
        assert snapshot(".") != before

    def test_without_a_terminal_the_answer_has_to_be_an_option(self, pki, ca):
        pki("request node1")

        assert "--yes" in pki("sign device.csr", code=1).err
        assert "--yes" in pki("sign device.csr", code=1, input="y\n").err
        assert not Path("device.pem").exists()
        assert Store(ca).index().issued == {}

    def test_certificate_that_is_there_stays(self, pki, ca):
        pki("request node1")
        Path("device.pem").write_text("old")

        assert "--force" in pki("sign device.csr --yes", code=1).err
        pki("sign device.csr --yes --out new.pem")
        assert Path("device.pem").read_text() == "old"
        pki("sign device.csr --yes --force")

    def test_another_key_with_the_same_name_is_pointed_out(self, pki, ca):
        pki("request node1 --out a")
        pki("request node1 --out b")
        assert "another key" not in pki("sign a/device.csr --yes").err
        assert "another key" not in pki("sign a/device.csr --yes --force").err

        assert "another key has a valid certificate as node1" in pki("sign b/device.csr --yes").err

    def test_what_is_no_request_is_refused(self, pki, ca):
        pki("sign ca/ca.pem --yes --out x.pem", code=1)
        Path("cut.csr").write_text("-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n")
        pki("sign cut.csr --yes", code=1)
        assert not Path("x.pem").exists()


class TestIssue:
    def test_whole_set_is_made(self, pki, ca):
        pki("issue node1.example --ip 10.0.0.3 --dns node1.example --out certs --key-type rsa-3072")

        assert good("certs", "node1.example", "10.0.0.3")
        assert "AIOMAS_PKI" in pki("issue x --help").out

    def test_name_is_the_default_of_names_and_of_the_directory(self, pki, ca):
        pki("issue 10.0.0.3")
        assert good("10.0.0.3", "10.0.0.3")

        assert "--dns" in pki("issue 'not a host'", code=1).err

    @pytest.mark.parametrize("name", ["''", ".", "..", "a/b", "'a\nb'", "'*'"])
    def test_bad_names_are_refused(self, pki, ca, name):
        pki(f"issue {name} --dns a.example", code=1)
        assert Store(ca).index().issued == {}


class TestRenew:
    def test_by_name_in_place(self, pki, ca):
        pki("issue node1 --days 10")
        before = authority.inspect(Path("node1/device.pem").read_bytes())

        pki("renew node1")

        after = authority.inspect(Path("node1/device.pem").read_bytes())
        assert good("node1", "node1")
        assert after.key_fingerprint == before.key_fingerprint
        assert after.not_after > before.not_after
        assert [item["status"] for item in pki("list --json").data] == ["replaced", "valid"]
        pki(f"revoke {before.serial}")

    def test_by_file_with_a_new_key(self, pki, ca):
        pki("issue node1")
        before = Path("node1/device.key").read_bytes()

        pki("renew node1/device.pem --new-key")

        assert Path("node1/device.key").read_bytes() != before
        assert good("node1", "node1")

    def test_certificate_that_was_taken_away_needs_a_place(self, pki, ca):
        pki("issue node1")
        Path("node1").rename("usb")

        assert "--out" in pki("renew node1", code=1).err
        pki("renew node1 --out new.pem")
        pki("renew usb/device.pem")
        assert good("usb", "node1")

    def test_revoked_one_is_not_renewed(self, pki, ca):
        pki("issue node1")
        pki("revoke node1")

        for what in ("node1", "node1/device.pem"):
            assert "revoked" in pki(f"renew {what}", code=1).err


class TestRevoke:
    def test_compromised_key_has_no_certificate_left_and_gets_none(self, pki, ca):
        pki("issue node1")
        pki("issue node2")
        pki("renew node1")

        result = pki("revoke node1/device.pem --reason keyCompromise")

        assert "same key" in result.err
        statuses = {item["serial"]: item["status"] for item in pki("list --json").data}
        assert sorted(statuses.values()) == ["revoked", "revoked", "valid"]
        assert "revoked" in pki("renew node1 --out new.pem", code=1).err
        assert not Path("new.pem").exists()

    @pytest.mark.parametrize("first", ["", "--reason superseded"])
    def test_compromised_key_is_not_signed(self, pki, ca, first):
        pki("request node1 --dns a.example --out dev")
        pki("sign dev/device.csr --yes")
        if first:
            pki(f"revoke node1 {first}")
        pki("revoke node1 --reason keyCompromise")

        assert "compromised" in pki("sign dev/device.csr --yes --force", code=1).err
        assert len(Store(ca).index().issued) == 1

    def test_key_revoked_for_another_reason_has_a_warning(self, pki, ca):
        pki("request node1 --dns a.example --out dev")
        pki("sign dev/device.csr --yes")
        pki("sign dev/device.csr --yes --out other.pem")
        pki("revoke dev/device.pem --reason superseded")

        assert "superseded" in pki("sign dev/device.csr --yes --force").err
        assert "superseded" in pki("renew other.pem").err

    def test_by_name_all_that_are_in_time(self, pki, ca):
        pki("issue node1")
        pki("renew node1")

        result = pki("revoke node1 --reason keyCompromise --json")

        assert [item["status"] for item in result.data] == ["revoked", "revoked"]
        crl = authority.read_crl(Path("ca/crl.pem").read_bytes(), Path("ca/ca.pem").read_bytes())
        assert {item.reason for item in crl.revoked} == {"keyCompromise"}
        assert len(crl.revoked) == 2
        assert "was revoked before" in pki("revoke node1").out

    def test_by_serial_and_by_file_only_that_one(self, pki, ca):
        for name in ("a", "b", "c"):
            pki(f"issue {name}")
        serial = pki("list --json").data[0]["serial"]

        pki(f"revoke {serial.upper()}")
        pki("revoke b/device.pem")

        assert [item["status"] for item in pki("list --json").data] == [
            "revoked",
            "revoked",
            "valid",
        ]

    @pytest.mark.parametrize("what", ["nobody", "00ff", "dir/nobody.pem", "ca/ca.pem"])
    def test_what_was_not_issued_is_said(self, pki, ca, what):
        pki(f"revoke {what}", code=1)

    def test_number_of_the_list_increases_and_days_count(self, pki, ca):
        first = pki("crl --json").data
        second = pki("crl --json --days 3").data

        assert second["number"] == first["number"] + 1
        lasts = dt.datetime.fromisoformat(second["next_update"]) - _index.now()
        assert dt.timedelta(days=2) < lasts <= dt.timedelta(days=3, minutes=6)


class TestReports:
    def test_list_has_what_one_looks_for(self, pki, ca):
        assert pki("list").out == "(none)\n"
        pki("issue node1 --ip 10.0.0.3")

        [item] = pki("list --json").data
        text = pki("list --long").out

        for key in ("subject", "issuer", "serial", "key", "fingerprint", "status"):
            assert item[key] in text
        assert item["names"]["ips"] == ["10.0.0.3"]
        assert "IP:10.0.0.3" in pki("list").out
        assert pki("list --status revoked --json").data == []

    @pytest.mark.parametrize(
        ("file", "kind"),
        [
            ("node1/device.pem", "certificate"),
            ("ca/ca.pem", "certificate"),
            ("ca/crl.pem", "crl"),
            ("device.csr", "request"),
            ("node1/device.key", "key"),
        ],
    )
    def test_inspect_knows_all_kinds_of_files(self, pki, ca, file, kind):
        pki("issue node1")
        pki("request node2")

        assert pki(f"inspect {file} --json").data["kind"] == kind
        assert "PRIVATE" not in pki(f"inspect {file}").out

    def test_inspect_knows_the_status_where_the_authority_is(self, pki, ca):
        pki("issue node1")
        pki("revoke node1")

        assert pki("inspect node1/device.pem --json").data["status"] == "revoked"
        assert pki("inspect node1/device.pem --ca x --json").data["status"] == "in time"

    def test_escapes_in_a_certificate_do_not_reach_the_terminal(self, pki):
        from pki._terminal import details, table

        assert table(["name"], [["\x1b[31mred"]]) == "name\n\\x1b[31mred"
        assert details([("name", "a\nb")]) == "name: a\\nb"


class TestCheck:
    @pytest.fixture
    def tree(self, pki):
        pki("bootstrap test --hosts a,b")
        return Path("test")

    def status(self, pki, line, code):
        result = pki(f"check {line} --json", code=code)
        assert result.data["status"] == ["good", "renew", "broken"][code]
        return {
            (Path(item["file"]).name, finding["topic"])
            for item in result.data["checked"]
            for finding in item["findings"]
            if finding["severity"] != "good"
        }

    def test_whole_tree_is_good(self, pki, tree):
        assert self.status(pki, "test", 0) == set()
        assert pki("check test --quiet").out == ""
        assert "test/ca/ca.pem" in pki("check test").out
        assert self.status(pki, "test/a/device.pem test/ca test/b --host localhost", 0) == set()

    def test_what_expires_soon_needs_renewal(self, pki, tree):
        assert ("device.pem", "expiry") in self.status(pki, "test --within 53w", 1)
        assert self.status(pki, "test --within 500h", 0) == set()

    def test_expired_is_broken(self, pki, tree, monkeypatch):
        later = _index.now() + dt.timedelta(days=400)
        check = authority.check
        monkeypatch.setattr(
            authority, "check", lambda *args, **options: check(*args, **options, now=later)
        )

        assert ("device.pem", "expiry") in self.status(pki, "test/a", 2)

    def test_key_of_another_is_broken(self, pki, tree):
        Path("test/a/device.key").write_bytes(Path("test/b/device.key").read_bytes())

        assert self.status(pki, "test", 2) == {("device.pem", "key")}

    def test_readable_key_and_directory_are_broken(self, pki, tree):
        Path("test/a/device.key").chmod(0o644)
        Path("test/b").chmod(0o777)
        Path("test/ca/ca.key").chmod(0o640)

        assert self.status(pki, "test", 2) == {
            ("device.key", "permissions"),
            ("b", "permissions"),
            ("ca.key", "permissions"),
        }

    def test_readable_key_of_a_single_certificate_is_broken(self, pki, tree):
        Path("test/a/device.key").chmod(0o644)

        assert self.status(pki, "test/a/device.pem", 2) == {("device.key", "permissions")}

    def test_other_host_is_broken(self, pki, tree):
        assert self.status(pki, "test/a --host b", 2) == {("device.pem", "host")}

    def test_other_authority_is_broken(self, pki, tree):
        pki("init other --no-passphrase")

        assert ("device.pem", "chain") in self.status(pki, "test/a --cafile other/ca.pem", 2)

    def test_revoked_is_broken(self, pki, tree):
        pki("revoke a --ca test/ca")

        assert self.status(pki, "test", 2) == {("device.pem", "revoked")}
        assert self.status(pki, "test/a", 0) == set()
        assert self.status(pki, "test/a --crlfile test/ca/crl.pem", 2) == {
            ("device.pem", "revoked")
        }

    def test_list_that_lacks_a_revocation_or_is_stale_is_broken(self, pki, tree, monkeypatch):
        before = Path("test/ca/crl.pem").read_bytes()
        pki("revoke a --ca test/ca")
        Path("test/ca/crl.pem").write_bytes(before)
        assert self.status(pki, "test/ca", 2) == {("crl.pem", "crl")}

        pki("crl --ca test/ca --days 1")
        assert self.status(pki, "test/ca", 0) == set()
        from pki import _checks

        later = _index.now() + dt.timedelta(hours=20)
        monkeypatch.setattr(_checks, "now", lambda: later)
        assert self.status(pki, "test/ca", 1) == {("crl.pem", "crl")}
        later += dt.timedelta(hours=10)
        assert self.status(pki, "test/ca", 2) == {("crl.pem", "crl")}

    def test_list_of_a_ca_that_the_device_does_not_know_yet_is_left_out(self, pki, tree):
        pki("rotate --ca test/ca")
        Path("test/a/crl.pem").write_bytes(Path("test/ca/crl.pem").read_bytes())

        assert self.status(pki, "test/a", 0) == set()

        pki("init other --no-passphrase")
        Path("test/a/crl.pem").write_bytes(Path("other/crl.pem").read_bytes())
        assert ("device.pem", "crl") in self.status(pki, "test/a", 2)

    def test_lost_and_damaged_records_are_broken(self, pki, tree):
        one, two = Path("test/ca/issued").iterdir()
        one.unlink()
        two.write_text("?")

        assert self.status(pki, "test/ca", 2) == {(one.name, "profile"), (two.name, "profile")}

    @pytest.mark.parametrize("where", ["nowhere", "empty", "junk.pem", "junk"])
    def test_nothing_to_check_is_not_good(self, pki, where):
        Path("empty").mkdir()
        Path("junk").mkdir()
        for path in ("junk.pem", "junk/a.pem"):
            Path(path).write_text("junk")

        assert pki(f"check {where}", code=2).out

    def test_certificate_alone_asks_for_its_authority(self, pki, tree):
        Path("test/a/ca.pem").unlink()

        assert "--cafile" in pki("check test/a", code=2).out


class TestBootstrap:
    def test_set_is_complete_and_says_how_it_is_used(self, pki):
        result = pki("bootstrap test --hosts a,b,10.0.0.3,::1")

        for host in ("a", "b", "10.0.0.3", "::1"):
            assert good(f"test/{host}", host, "localhost", "127.0.0.1")
        assert (
            'certs = aiomas.SSLCerts("test/a/ca.pem", "test/a/device.pem", "test/a/device.key")'
            in result.out
        )
        assert "not encrypted" in result.err
        modes = {stat.S_IMODE(path.stat().st_mode) for path in Path("test").rglob("*.key")}
        assert modes == {0o600}

    def test_line_of_python_can_be_read_whatever_the_directory_is_called(self, pki):
        line = pki("""bootstrap 'q"\\ü' --hosts a --name x --json""").data["python"]

        call = ast.parse(line).body[0].value
        assert [item.value for item in call.args] == [
            f'q"\\ü/a/{name}' for name in ("ca.pem", "device.pem", "device.key")
        ]

    def test_once_more_changes_nothing(self, pki):
        pki("bootstrap test --hosts a,b")
        before = snapshot("test")

        again = pki("bootstrap test --hosts a,b --json")

        assert snapshot("test") == before
        assert {host["done"] for host in again.data["hosts"].values()} == {"kept"}
        assert again.err == "warning: the CA's key in test/ca is not encrypted: for tests only\n"

    def test_passphrase_for_a_key_that_has_none_is_refused(self, pki):
        pki("bootstrap test --hosts a")
        before = snapshot("test")

        for hosts in ("a", "a,b"):
            line = f"bootstrap test --hosts {hosts} --passphrase-env X"
            assert "is not encrypted" in pki(line, code=1, env={"X": SECRET}).err
        assert snapshot("test") == before

    def test_options_that_change_nothing_for_a_host_are_pointed_out(self, pki):
        pki("bootstrap test --hosts a --key-type ec-p384 --days 100")

        assert "keeps" not in pki("bootstrap test --hosts a").err
        assert "keeps" not in pki("bootstrap test --hosts a --key-type ec-p384 --days 100").err
        said = pki("bootstrap test --hosts a,b --key-type ec-p256 --days 90").err
        assert "a keeps a key of the kind ec-p384 and a certificate for 100 days" in said
        assert "b keeps" not in said

    def test_what_is_missing_is_added_and_the_rest_stays(self, pki):
        pki("bootstrap test --hosts a,b")
        before = snapshot("test/a")
        Path("test/b/device.key").unlink()

        done = pki("bootstrap test --hosts a,b,c --json").data["hosts"]

        assert [done[host]["done"] for host in "abc"] == ["kept", "made", "made"]
        assert snapshot("test/a") == before
        assert good("test/b", "b")

    def test_readable_key_of_a_host_is_kept_only_if_told_so(self, pki):
        pki("bootstrap test --hosts a")
        Path("test/a/device.key").chmod(0o644)

        assert "chmod 600 test/a/device.key" in pki("bootstrap test --hosts a", code=1).err
        pki("bootstrap test --hosts a --allow-readable-key")

    @pytest.mark.parametrize("days", [250, 350, 400])
    def test_what_is_about_to_expire_is_renewed_with_its_key(self, pki, monkeypatch, days):
        pki("bootstrap test --hosts a")
        key = Path("test/a/device.key").read_bytes()
        before = Path("test/a/device.pem").read_bytes()
        later = _index.now() + dt.timedelta(days=days)
        check = authority.check
        monkeypatch.setattr(
            authority, "check", lambda *args, **options: check(*args, **options, now=later)
        )

        pki("bootstrap test --hosts a")

        assert (Path("test/a/device.pem").read_bytes() == before) is (days == 250)
        assert Path("test/a/device.key").read_bytes() == key

    def test_short_lives_are_not_renewed_at_once(self, pki):
        pki("bootstrap test --hosts a --days 1")
        before = snapshot("test")

        pki("bootstrap test --hosts a --days 1")

        assert snapshot("test") == before

    def test_stale_list_is_renewed(self, pki, monkeypatch):
        pki("bootstrap test --hosts a")
        later = _index.now() + dt.timedelta(days=80)
        monkeypatch.setattr(bootstrapping, "now", lambda: later)

        pki("bootstrap test --hosts a")

        assert authority.read_crl(Path("test/ca/crl.pem").read_bytes()).number == 2

    def test_encrypted_key_is_needed_only_for_changes(self, pki):
        pki("bootstrap test --hosts a --passphrase-env X", env={"X": SECRET})

        pki("bootstrap test --hosts a")
        assert "--passphrase-file" in pki("bootstrap test --hosts a,b", code=1).err
        pki("bootstrap test --hosts a,b --passphrase-env X", env={"X": SECRET})

    def test_rotation_reaches_the_devices(self, pki):
        pki("bootstrap test --hosts a")
        pki("rotate --ca test/ca")
        pki("bootstrap test --hosts a")
        assert len(authority.split(Path("test/a/ca.pem").read_bytes())) == 2

        pki("renew a --ca test/ca")
        pki("rotate --finish --ca test/ca")
        pki("bootstrap test --hosts a")
        assert Path("test/a/ca.pem").read_bytes() == Path("test/ca/ca.pem").read_bytes()
        assert good("test/a", "a")

    def test_files_of_somebody_else_stay(self, pki):
        Path("test/a").mkdir(parents=True)
        Path("test/a/device.key").write_text("precious")

        assert "--force" in pki("bootstrap test --hosts a", code=1).err
        assert Path("test/a/device.key").read_text() == "precious"
        pki("bootstrap test --hosts a --force")
        assert good("test/a", "a")

    @pytest.mark.parametrize("hosts", ["''", "a,,b", "ca", "CA", "a/b", "'*.example'", "-x"])
    def test_bad_hosts_are_refused_before_anything_is_made(self, pki, hosts):
        pki(f"bootstrap test --hosts={hosts}", code=1)

        assert not Path("test").exists()

    @pytest.mark.parametrize("line", ["Ω --hosts a", "test --hosts a --name Ω"])
    def test_bad_name_of_the_authority_leaves_nothing(self, pki, line):
        assert "Latin letter" in pki(f"bootstrap {line}", code=1).err
        assert list(Path().iterdir()) == []

    def test_other_name_for_the_same_authority_is_refused(self, pki):
        pki("bootstrap test --hosts a --name one")

        assert "is called 'one'" in pki("bootstrap test --hosts a --name two", code=1).err


class TestRotate:
    def test_steps_are_said_and_finish_waits_for_them(self, pki, ca):
        pki("issue node1")
        said = pki("rotate").out
        assert "ca-bundle.pem" in said
        assert "renew node1" in said

        assert "node1" in pki("rotate --finish", code=1).err
        assert "not finished" in pki("rotate", code=1).err
        pki("renew node1")
        pki("rotate --finish")
        assert not Path("ca/ca-bundle.pem").exists()
        assert "no rotation" in pki("rotate --finish", code=1).err

    def test_certificates_of_a_former_authority_are_not_called_valid(self, pki, ca):
        pki("issue a")
        pki("rotate")
        pki("issue b")
        assert len(pki("list --status valid --json").data) == 2

        pki("rotate --finish --force")

        assert [item["status"] for item in pki("list --json").data] == ["untrusted", "valid"]
        assert [item["name"] for item in pki("list --status untrusted --json").data] == ["a"]
        assert pki("inspect a/device.pem --json").data["status"] == "untrusted"

    def test_steps_can_be_copied(self, pki):
        pki("bootstrap 'my certs' --hosts a,b.lan --name plant")

        said = pki("rotate --ca 'my certs/ca'").out.splitlines()
        steps = [line.partition("pki ")[2] for line in said if "pki " in line]

        assert [shlex.split(step)[:2] for step in steps] == [
            ["renew", "a"],
            ["renew", "b.lan"],
            ["rotate", "--finish"],
        ]
        for step in steps:
            pki(step)

    def test_new_key_has_the_passphrase_of_the_old_one(self, pki):
        env = {"X": SECRET}
        pki("init ca --passphrase-env X", env=env)
        pki("rotate --passphrase-env X --key-type ec-p256", env=env)
        pki("issue node1 --passphrase-env X", env=env)

        assert authority.inspect(Path("ca/ca.pem").read_bytes()).key == "ec-p256"
        assert authority.is_encrypted(Path("ca/previous/ca.key").read_bytes())


@pytest.mark.parametrize("name", sorted(commands.pki.commands))
def test_every_command_has_help_with_an_example(pki, name):
    text = pki(f"{name} --help").out

    assert "Examples:\n  pki " + name in text


@pytest.mark.parametrize("name", sorted(commands.pki.commands))
def test_every_report_can_be_json(name):
    assert any("--json" in option.opts for option in commands.pki.commands[name].params)


def test_examples_of_the_help_have_the_right_options():
    for name, command in commands.pki.commands.items():
        assert isinstance(command, Command)
        for example in command.examples:
            context = command.make_context(name, [], resilient_parsing=True)
            known = {option for param in context.command.params for option in param.opts}
            used = {word for word in shlex.split(example) if word.startswith("--")}
            assert used <= known, f"{name} {example}"


def test_directory_of_the_authority_is_named_by_option_variable_or_default(pki):
    pki("init one --no-passphrase")
    pki("init ca --no-passphrase")

    pki("issue a --ca one")
    pki("issue b", env={"AIOMAS_PKI": "one"})
    pki("issue c")

    assert [item["name"] for item in pki("list --ca one --json").data] == ["a", "b"]
    assert [item["name"] for item in pki("list --json").data] == ["c"]


def test_errors_are_one_line_unless_debug_asks_for_more(pki):
    for line in ("list", "inspect", "frobnicate", "revoke a b c", "sign /dev/null", "crl --days x"):
        result = CliRunner().invoke(commands.pki, line.split())
        assert result.exit_code in {1, 2}
        assert len(result.stderr.splitlines()) == 1, result.stderr

    result = CliRunner().invoke(commands.pki, ["--debug", "list"])
    assert isinstance(result.exception, OSError)


def test_missing_authority_says_how_to_make_one(pki):
    assert "init ca" in pki("list", code=1).err


@pytest.mark.parametrize("place", ["file/x", "file/x/y"])
def test_directory_that_is_a_file_is_not_to_be_forced(pki, place):
    Path("file").write_text("")

    said = pki(f"init {place} --name x --no-passphrase", code=1).err

    assert "no directory: name another place" in said
    assert "--force" not in said


def test_missing_certificate_of_the_authority_says_where_it_is_found(pki, ca):
    Path("ca/ca.pem").unlink()

    assert "ca/ca.pem is not there: take it from a backup" in pki("issue a", code=1).err


def test_binary_request_says_how_it_is_converted(pki, ca):
    pki("request a")
    request = x509.load_pem_x509_csr(Path("device.csr").read_bytes())
    Path("device.csr").write_bytes(request.public_bytes(Encoding.DER))

    assert "openssl req -inform DER" in pki("sign device.csr --yes", code=1).err


def test_readable_key_is_used_only_if_told_so(pki, ca):
    Path("ca/ca.key").chmod(0o644)

    assert "--allow-readable-key" in pki("issue a", code=1).err
    pki("issue a --allow-readable-key")


def test_two_at_once_make_one_authority(tmp_path):
    running = [
        subprocess.Popen(
            [sys.executable, "-m", "pki", "bootstrap", tmp_path / "test", "--hosts", hosts],
            cwd=Path(__file__).parents[3],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for hosts in ("a,b", "b,c", "c,a")
    ]

    assert [process.wait(30) for process in running] == [0, 0, 0]
    assert len(Store(tmp_path / "test" / "ca").index().issued) == 3
    for host in ("a", "b", "c"):
        assert good(tmp_path / "test" / host, host)


class TestOpenDirectories:
    """Keys are not put where others can exchange them."""

    @pytest.mark.parametrize("mode", [0o777, 0o770, 0o702])
    @pytest.mark.parametrize(
        "line", ["request node1 --dns a.example --out open", "issue node1 --out open"]
    )
    def test_of_devices_are_refused(self, pki, ca, line, mode):
        Path("open").mkdir()
        Path("open").chmod(mode)

        assert "chmod go-w open" in pki(line, code=1).err
        assert list(Path("open").iterdir()) == []
        assert Store(ca).index().issued == {}

        Path("open").chmod(0o755)
        pki(line)

    def test_new_key_is_not_put_there(self, pki, ca):
        pki("issue node1")
        before = snapshot("node1")
        Path("node1").chmod(0o777)

        assert "chmod go-w" in pki("renew node1 --new-key", code=1).err
        assert snapshot("node1") == before

    def test_of_a_ca_is_closed_if_empty_and_else_refused(self, pki):
        for name in ("empty", "full"):
            Path(name).mkdir()
            Path(name).chmod(0o755)
        Path("full/notes").touch()

        pki("init empty --no-passphrase")
        assert stat.S_IMODE(Path("empty").stat().st_mode) == 0o700
        assert "chmod 700 full" in pki("init full --no-passphrase", code=1).err
        assert [path.name for path in Path("full").iterdir()] == ["notes"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
@pytest.mark.parametrize("line", ["request a --dns a.example --out dev", "issue a --out dev"])
def test_forced_key_is_not_given_to_the_owner_of_the_old_one(pki, ca, line):
    Path("dev").mkdir()
    Path("dev/device.key").touch()
    os.chown("dev/device.key", 12345, 12346)

    pki(f"{line} --force")

    assert Path("dev/device.key").stat().st_uid == 0


@pytest.mark.parametrize("link", [False, True])
@pytest.mark.parametrize(
    "line",
    [
        "sign new/device.csr --yes --out dev/device.key",
        "issue b --out dev",
        "request b --dns b.example --out dev",
        "renew a --out dev/device.key",
    ],
)
def test_what_is_no_regular_file_is_never_replaced(pki, ca, line, link):
    pki("issue a")
    pki("request b --dns b.example --out new")
    Path("dev").mkdir()
    file = Path("dev/device.key")
    os.mkfifo("pipe" if link else file)
    if link:
        file.symlink_to("../pipe")

    assert "no regular file" in pki(f"{line} --force", code=1).err

    assert file.is_fifo()
    assert len(list(Path("dev").iterdir())) == 1
    assert len(Store(ca).index().issued) == 1


class TestPlaces:
    """What cannot be written is not issued, and a renewal elsewhere leaves the place as it is."""

    @pytest.mark.parametrize(
        "line", ["sign new/device.csr --yes --out nodir/x.pem", "renew a --out nodir/x.pem"]
    )
    def test_nothing_is_issued_for_a_directory_that_is_not_there(self, pki, ca, line):
        pki("issue a")
        pki("request b --dns b.example --out new")

        assert "nodir" in pki(line, code=1).err

        assert [item["status"] for item in pki("list --json").data] == ["valid"]
        pki("renew a")

    def test_renewal_elsewhere_does_not_spoil_the_next(self, pki, ca):
        pki("issue a")

        result = pki("renew a --out x.pem --json")
        pki("renew a")

        assert result.data["file"] == str(Path("x.pem").resolve())
        assert good("a", "a")
        newest = list(Store(ca).index().issued)[-1]
        assert authority.inspect(Path("a/device.pem").read_bytes()).serial == newest

    def test_renewal_that_was_not_written_does_not_spoil_the_next(self, pki, ca, monkeypatch):
        pki("issue a")
        write = _files.write_together

        def fail(files, **options):
            if files[0].path.name == "device.pem":
                raise OSError(28, "No space left on device", "device.pem")
            write(files, **options)

        with monkeypatch.context() as patch:
            patch.setattr(_files, "write_together", fail)
            pki("renew a", code=1)

        pki("renew a")
        assert good("a", "a")
