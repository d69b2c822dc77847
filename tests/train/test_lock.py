"""One run a folder: locks of the living hold, those of the dead do not."""

import errno
import fcntl
import subprocess
import sys
import threading
import time

import pytest
from etils import epath
from waiting import wait_for

from jaxpt.errors import InputError
from jaxpt.train import workdir as workdirs

OTHER = "process 1 on elsewhere"
HOLDER = """
import sys, time
from etils import epath
from jaxpt.train import workdir
with workdir.hold_lock(epath.Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(300)
"""


@pytest.fixture
def folder(tmp_path):
    return epath.Path(tmp_path)


def test_two_runs_in_one_folder_are_refused(folder):
    with workdirs.hold_lock(folder):
        with pytest.raises(InputError, match=f"is in use by {workdirs._me()}: two runs would"):
            with workdirs.hold_lock(folder):
                pass
    with workdirs.hold_lock(folder):
        pass


def test_the_lock_of_a_dead_process_does_not_hold(folder):
    process = subprocess.Popen([sys.executable, "-c", HOLDER, str(folder)], stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"held\n"
    with pytest.raises(InputError, match=f"is in use by process {process.pid} on "):
        with workdirs.hold_lock(folder):
            pass
    process.kill()
    process.wait()
    process.stdout.close()
    with workdirs.hold_lock(folder):
        assert (folder / workdirs.LOCK).read_text() == workdirs._me()


def test_a_file_that_cannot_be_opened_is_one_sentence(folder):
    (folder / workdirs.LOCK).mkdir()
    with pytest.raises(InputError, match="run.lock' cannot be written .*choose another"):
        with workdirs.hold_lock(folder):
            pass


def test_a_full_disk_does_not_hinder_the_lock(folder, monkeypatch):
    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(workdirs.os, "write", full)
    with workdirs.hold_lock(folder):
        with pytest.raises(InputError, match="in use by another process"):
            with workdirs.hold_lock(folder):
                pass


class TestLease:
    @pytest.fixture(autouse=True)
    def quick(self, monkeypatch):
        monkeypatch.setattr(workdirs, "RENEWED_EVERY", 0.05)
        monkeypatch.setattr(workdirs, "EXPIRES_AFTER", 0.5)
        monkeypatch.setattr(workdirs, "SETTLES_IN", 0.0)

    @pytest.fixture
    def path(self, folder):
        return folder / workdirs.LOCK

    def test_a_disk_without_locks_gets_one(self, folder, path, monkeypatch):
        def flock(*args):
            raise OSError(errno.ENOLCK, "No locks available")

        monkeypatch.setattr(fcntl, "flock", flock)
        with workdirs.hold_lock(folder):
            assert path.read_text().startswith(f"{workdirs._me()} at ")
        assert not path.exists()

    def test_it_is_renewed_and_ends_with_its_holder(self, path):
        with workdirs._lease(path):
            first = workdirs._read_lease(path)
            wait_for(lambda: workdirs._read_lease(path)[1] > first[1] + 0.1)
            assert workdirs._read_lease(path)[0] == workdirs._me()
        assert not path.exists() and workdirs._read_lease(path) == ("", 0.0)

    def test_it_is_whole_whenever_it_is_read(self, path):
        workdirs._renew_lease(path)
        done = threading.Event()

        def renew():
            while not done.is_set():
                workdirs._renew_lease(path)

        thread = threading.Thread(target=renew)
        thread.start()
        try:
            assert {workdirs._read_lease(path)[0] for _ in range(2000)} == {workdirs._me()}
        finally:
            done.set()
            thread.join()

    def test_it_is_renewed_after_a_glitch_of_the_store(self, path, monkeypatch):
        renew, calls = workdirs._renew_lease, []

        def glitches(path):
            calls.append(path)
            if len(calls) in (2, 3):
                raise ConnectionError("away")
            renew(path)

        monkeypatch.setattr(workdirs, "_renew_lease", glitches)
        with workdirs._lease(path):
            wait_for(lambda: len(calls) > 4 and time.time() - workdirs._read_lease(path)[1] < 0.2)

    def test_that_of_the_living_is_refused(self, path):
        done = threading.Event()

        def live():
            while not done.wait(0.02):
                with workdirs.replacing(path) as file:
                    file.write(f"{OTHER} at {time.time():.3f}")

        thread = threading.Thread(target=live)
        thread.start()
        try:
            time.sleep(0.1)
            with pytest.raises(InputError, match=f"is in use by {OTHER}: two runs would"):
                with workdirs._lease(path):
                    pass
        finally:
            done.set()
            thread.join()

    def test_that_of_the_dead_is_waited_for_until_it_expires(self, path, capsys):
        path.write_text(f"{OTHER} at {time.time():.3f}")
        began = time.monotonic()
        with workdirs._lease(path):
            assert 0.3 < time.monotonic() - began < 5
            assert workdirs._read_lease(path)[0] == workdirs._me()
        said = capsys.readouterr().err
        assert said.count("\n") == 1 and f"was in use by {OTHER}: waiting up to 0.5 s" in said

    @pytest.mark.parametrize("text", ["", "nonsense", f"{OTHER} at noon", f"{OTHER} at 12.5"])
    def test_nonsense_and_old_ones_hold_nobody(self, text, path, capsys):
        path.write_text(text)
        with workdirs._lease(path):
            pass
        assert capsys.readouterr().err == ""

    def test_one_s_own_is_taken_up_again(self, path, capsys):
        workdirs._renew_lease(path)
        with workdirs._lease(path):
            pass
        assert capsys.readouterr().err == ""

    def test_of_two_at_the_same_moment_the_later_has_it(self, path, monkeypatch):
        monkeypatch.setattr(
            workdirs.time, "sleep", lambda seconds: path.write_text(f"{OTHER} at {time.time():.3f}")
        )
        with pytest.raises(InputError, match=f"in use by {OTHER}"):
            with workdirs._lease(path):
                pass
        assert workdirs._read_lease(path)[0] == OTHER  # whose it is stays


def test_an_object_store_has_no_locks(monkeypatch):
    taken = []

    class Path(str):
        def __truediv__(self, name):
            return f"{self}/{name}"

    def lease(path):
        taken.append(path)
        return open("/dev/null")

    monkeypatch.setattr(workdirs, "_lease", lease)
    with workdirs.hold_lock(Path("gs://bucket/run")):
        assert taken == ["gs://bucket/run/run.lock"]
