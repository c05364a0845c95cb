"""An authority survives a crash, or a full disk, at any moment.

A hook sees each change of a file (what is opened for writing, renamed, linked, removed or made)
before it is done. A forked process is killed, or told that the disk is full, at the first of these,
at the second, and so on; what it left has to be good, and the next process has to be able to go on.
"""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from .conftest import folder_in_memory

SWEEP = '''
import errno, os, shutil, signal, sys
from pathlib import Path
from pki import authority
from pki._signer import listed, split_crl
from pki._index import Root
from pki.authority import PkiError
from pki.store import Store, StoreError

what, how, base = sys.argv[1], sys.argv[2], Path(sys.argv[3])
NAMES = authority.parse_names(["node1.example"])
CHANGES = {"os.rename", "os.link", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.chmod"}

def prepare(folder):
    store = Store.create(folder / "ca", Root("plant", "ec-p256", 100))
    with store.signing() as signer:
        signer.issue("node1", NAMES, folder / "node1")
    if what == "finish":
        with store.signing() as signer:
            signer.rotate()
            signer.renew(folder / "node1" / "device.pem")

def operate(folder):
    if what == "init":
        Store.create(folder / "new", Root("new", "ec-p256", 100), force=True)
        return
    store = Store(folder / "ca")
    with store.signing() as signer:
        if what == "issue":
            signer.issue("node2", NAMES, folder / "node2", replace=True)
        elif what == "sign":
            key = authority.make_key()
            csr = authority.make_request("node3", NAMES, key)
            signer.sign(csr, folder / "node3.pem", replace=True)
        elif what == "renew":
            signer.renew(folder / "node1" / "device.pem", new_key=True)
        elif what == "revoke":
            signer.revoke(store.find("node1"))
        elif what == "rotate" and signer.index.rotation == "none":
            signer.rotate()
        elif what == "finish" and signer.index.rotation != "none":
            signer.finish()

seen = 0

def interrupt(step):
    def hook(event, args):
        global seen
        flags = args[2] if event == "open" and isinstance(args[2], int) else 0
        writes = flags & (os.O_WRONLY | os.O_RDWR)
        if not (writes or event in CHANGES):
            return
        seen += 1
        if seen == step:
            if how == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            raise OSError(errno.ENOSPC, "No space left on device")
    sys.addaudithook(hook)

def check(folder):
    """Raise unless all that is there is good, after somebody has used the key once."""
    if what == "init":
        operate(folder)
        store = Store(folder / "new")
        with store.signing():
            pass
        return
    store = Store(folder / "ca")
    index = store.index()  # before anything is repaired: it is never half written
    for path in folder.rglob("*.key"):
        assert path.stat().st_mode & 0o077 == 0, path
    for name in ("node1", "node2"):
        file = folder / name / "device.pem"
        if file.exists():
            # Whoever has a certificate can be locked out.
            assert authority.inspect(file.read_bytes()).serial in index.issued, file
    if (folder / "node3.pem").exists():
        assert authority.inspect((folder / "node3.pem").read_bytes()).serial in index.issued
    with store.signing() as signer:
        index = signer.index
    assert index.rotation in ("none", "overlap"), index.rotation
    current = index.generations[-1].fingerprint
    assert authority.inspect(store.certificate()).fingerprint == current
    trusted = [authority.inspect(part).fingerprint for part in authority.split(store.trusted())]
    assert sorted(trusted) == sorted(item.fingerprint for item in index.trusted()), "trust"
    for part in split_crl(store.crl()):
        authority.read_crl(part, store.trusted())
    revoked = {entry.serial for entry in index.issued.values() if entry.revoked}
    assert revoked <= {item.serial for item in listed(store.crl())}, "a revocation is lost"
    for entry in index.issued.values():
        assert authority.inspect(store.issued(entry)).serial == entry.serial
    left = [path for path in (folder / "ca").rglob("*.unfinished")]
    assert not left, left
    assert not (folder / "ca" / "next").exists()
    operate(folder)  # and once more, to the end
    logged = (folder / "ca" / "log").read_text()
    assert all(entry.serial in logged for entry in store.index().issued.values())

prepare(base / "start")
for step in range(1, 1000):
    folder = base / str(step)
    shutil.copytree(base / "start", folder)
    child = os.fork()
    if not child:
        code = 3
        try:
            interrupt(step)
            operate(folder)
            code = 0 if seen < step else 2  # 2: it did without
        except (OSError, PkiError):
            code = 1
        finally:
            os._exit(code)
    status = os.waitpid(child, 0)[1]
    ended = os.waitstatus_to_exitcode(status)
    if ended not in ({"kill": (-9, 0), "full": (1, 2, 0)}[how]):
        sys.exit(f"step {step}: exit code {ended}")
    try:
        check(folder)
    except BaseException as exc:
        raise RuntimeError(f"after step {step} of {what}") from exc
    shutil.rmtree(folder)
    if ended == 0:
        print(step - 1)
        break
'''

STEPS = {"init": 15, "issue": 14, "sign": 8, "renew": 10, "revoke": 6, "rotate": 20, "finish": 8}
"""At least so many changes of files there are: the sweep has not ended early."""


def sweep(what: str, how: str) -> subprocess.CompletedProcess[str]:
    with folder_in_memory() as folder:
        return subprocess.run(
            [sys.executable, "-c", SWEEP, what, how, folder],
            cwd=Path(__file__).parents[3],
            env=os.environ | {"SUDO_USER": "tester"},  # nothing is looked up for the log
            text=True,
            capture_output=True,
            check=False,
            timeout=100,
        )


@pytest.fixture(scope="module")
def sweeps(request) -> dict[tuple[str, str], subprocess.CompletedProcess[str]]:
    """The outcomes of those that are tested: as many run at once as there are processors."""
    params = [i.callspec.params for i in request.session.items if i.path == request.path]
    keys = [(each["what"], each["how"]) for each in params]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return dict(zip(keys, pool.map(sweep, *zip(*keys, strict=True)), strict=True))


@pytest.mark.timeout(300)  # the first one waits for all of them
@pytest.mark.parametrize("how", ["kill", "full"])
@pytest.mark.parametrize("what", STEPS)
def test_authority_is_good_after_a_crash_at_any_moment(sweeps, what, how):
    done = sweeps[what, how]

    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= STEPS[what]
