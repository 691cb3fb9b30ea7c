"""One run works in a run folder at a time, on a disk and in a bucket."""

import json
import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from diffmix.errors import UserError
from diffmix.files import new_file
from diffmix.storage import Folder
from engine import lease
from engine.lease import held


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(lease, "HEARTBEAT_SECONDS", 0.02)
    monkeypatch.setattr(lease, "PATIENCE_SECONDS", 0.2)


def leases(out: Folder) -> list[str]:
    return [name for name in out.names() if name.startswith("lease-")]


def write_lease(out: Folder, number: int = 1, **changes) -> None:
    owner = {**lease._owner(), **changes}
    out.write(f"lease-{number:06d}.json", json.dumps(owner).encode())


def test_a_second_run_is_refused_in_one_sentence(tmp_path):
    out = Folder(str(tmp_path))
    with held(out):
        refusal = rf"in use by another run \(process {os.getpid()} on "
        with pytest.raises(UserError, match=refusal), held(out):
            pass
        assert leases(out) == ["lease-000001.json"]
    assert leases(out) == []
    with held(out):
        pass


def test_the_lease_of_a_killed_process_is_taken_over_at_once(tmp_path, monkeypatch):
    code = (
        "import os, signal, sys\n"
        "from diffmix.storage import Folder\n"
        "from engine.lease import held\n"
        "with held(Folder(sys.argv[1])): os.kill(os.getpid(), signal.SIGKILL)"
    )
    ended = subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
    assert ended.returncode == -signal.SIGKILL
    out = Folder(str(tmp_path))
    assert leases(out) == ["lease-000001.json"]
    monkeypatch.setattr(lease, "PATIENCE_SECONDS", 1e9)  # it is not waited for
    with held(out):
        assert leases(out) == ["lease-000002.json"]
    assert leases(out) == []


def test_another_machines_owner_lives_while_its_heartbeat_changes(tmp_path, caplog):
    out = Folder(str(tmp_path))
    write_lease(out, machine="elsewhere", host="node-7", pid=12)
    stop = threading.Event()

    def beat() -> None:
        beats = 0
        while not stop.wait(0.01):
            beats += 1
            write_lease(out, machine="elsewhere", host="node-7", pid=12, beat=beats)

    thread = threading.Thread(target=beat)
    thread.start()
    try:
        with pytest.raises(UserError, match=r"process 12 on node-7"), held(out):
            pass
    finally:
        stop.set()
        thread.join()
    with held(out):  # and is dead when it does not
        assert leases(out) == ["lease-000002.json"]
    assert "waiting" in caplog.text


def test_a_sleeping_owner_that_wakes_up_stops(tmp_path):
    """Its clock plays no part: the lease only says that nothing came for a while."""
    out = Folder(str(tmp_path))

    def sleep() -> None:
        with held(out):
            write_lease(out, 2, machine="elsewhere")
            threading.Event().wait(20)  # interrupted by the heartbeat

    # What a shell starts in the background ignores the signal.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(UserError, match="has taken over"):
            sleep()
    finally:
        signal.signal(signal.SIGINT, before)
    assert leases(out)[-1] == "lease-000002.json", "the other's lease stays"


def test_an_owner_that_cannot_be_interrupted_says_so_at_its_end(tmp_path):
    """A shell makes processes in the background ignore Ctrl-C."""
    out = Folder(str(tmp_path))

    def work() -> None:
        with held(out):
            write_lease(out, 2, machine="elsewhere")
            # Its heartbeat ends when it has seen the other lease.
            (beat,) = (thread for thread in threading.enumerate() if thread.name == "lease")
            beat.join(20)

    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with pytest.raises(UserError, match="has taken over"):
            work()
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_lease_that_could_not_be_given_back_is_nobodys(tmp_path, monkeypatch):
    """As on a disk that has become read-only, for a second run in the same process."""
    out = Folder(str(tmp_path))
    with monkeypatch.context() as patch:

        def refuse(folder, name):
            raise OSError(30, "Read-only file system")

        patch.setattr(Folder, "delete", refuse)
        with held(out):
            pass
    assert leases(out) == ["lease-000001.json"]
    with held(out):
        assert leases(out) == ["lease-000002.json"]


def test_a_damaged_lease_is_nobodys(tmp_path):
    (tmp_path / "lease-000004.json").write_text("{")
    with held(Folder(str(tmp_path))):
        assert leases(Folder(str(tmp_path))) == ["lease-000005.json"]


def test_one_of_many_gets_a_new_file(tmp_path, bucket_settings):
    """On a disk, and in a bucket by conditional writes."""
    places = [Folder(str(tmp_path))]
    boto3 = pytest.importorskip("boto3")
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    with pytest.MonkeyPatch.context() as patch:
        host, port = server.get_host_and_port()
        for name, value in bucket_settings.items():
            patch.setenv(name, value)
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        boto3.client("s3").create_bucket(Bucket="leases")
        places.append(Folder("s3://leases/out folder"))
        for folder in places:
            with ThreadPoolExecutor(8) as threads:
                made = list(
                    threads.map(
                        new_file.write_new, [folder] * 8, ["x"] * 8, [b"%d" % i for i in range(8)]
                    )
                )
            assert made.count(True) == 1
            assert folder.read("x") == b"%d" % made.index(True)
        refused = pytest.raises(UserError, match="in use by another run")
        with held(places[1]), refused, held(places[1]):
            pass
        assert leases(places[1]) == []
    server.stop()


def test_a_store_without_conditional_writes_is_warned_about(object_store, caplog):
    new_file._warn_of_races.cache_clear()  # another test may have been warned
    out = Folder("s3://elsewhere/run").create()
    with held(out):
        refused = pytest.raises(UserError, match="in use by another run")
        with refused, held(out):
            pass
    assert leases(out) == []
    assert "are not told apart; install boto3" in caplog.text
