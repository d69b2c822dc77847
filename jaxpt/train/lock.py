"""Lock of a run's folder, released when the process that holds it dies."""

import contextlib
import fcntl
import os
import socket
import sys
import threading
import time

from etils import epath

from jaxpt.errors import InputError
from jaxpt.files import is_remote, unwritable

FILE = "run.lock"
# In seconds. Without file locks (object stores), a lease is renewed as long as its holder lives.
RENEWED_EVERY, EXPIRES_AFTER, SETTLES_IN = 20.0, 60.0, 2.0


@contextlib.contextmanager
def hold(workdir: epath.Path):
    """Context manager that holds the lock of a run's folder.

    On a disk it is a kernel lock (``flock``), which is released however the process dies. Object
    stores, and disks that do not support locks, get a lease. If the holder was killed, this waits
    until its lease expires.

    Raises:
      InputError: if another live process holds the lock.
    """
    if is_remote(workdir):
        with _lease(workdir / FILE):
            yield
        return
    try:
        file = open(workdir / FILE, "a+")
    except OSError as error:
        raise unwritable(workdir / FILE, error, option="workdir") from error
    with contextlib.ExitStack() as stack:
        stack.enter_context(file)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            raise _taken(workdir, file.read().strip() or "another process") from error
        except OSError:
            stack.enter_context(_lease(workdir / FILE))
        else:
            with contextlib.suppress(OSError):  # a full disk: the lock holds, only its text is lost
                os.truncate(workdir / FILE, 0)
                os.write(file.fileno(), _me().encode())
        yield


@contextlib.contextmanager
def _lease(path: epath.Path):
    _wait_until_free(path)
    _renew(path)
    time.sleep(SETTLES_IN)  # if two processes come at the same moment, the later writer gets it
    holder, _ = _read(path)
    if holder != _me():
        raise _taken(path.parent, holder)
    done = threading.Event()

    def keep():
        while not done.wait(RENEWED_EVERY):
            with contextlib.suppress(Exception):  # the store may be unreachable for a moment
                _renew(path)

    thread = threading.Thread(target=keep, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        path.unlink(missing_ok=True)


def _wait_until_free(path: epath.Path) -> None:
    """Returns once the lease is free or has expired; a live holder renews it in the meantime.

    Raises:
      InputError: if a live process holds it.
    """
    first = holder, renewed = _read(path)
    reported = False
    while holder not in ("", _me()) and time.time() - renewed < EXPIRES_AFTER:
        if not reported:
            reported = True
            print(
                f"jaxpt: {os.fspath(path.parent)!r} was in use by {holder}: waiting up to "
                f"{EXPIRES_AFTER:g} seconds to see whether that process is alive.",
                file=sys.stderr,
                flush=True,
            )
        time.sleep(min(1.0, EXPIRES_AFTER / 10))
        now = holder, renewed = _read(path)
        if holder and now != first:
            raise _taken(path.parent, holder)


def _renew(path: epath.Path) -> None:
    path.write_text(f"{_me()} at {time.time():.3f}")


def _read(path: epath.Path) -> tuple[str, float]:
    """Returns the holder of a lease and the time of its renewal; ("", 0) if there is none."""
    try:
        holder, _, renewed = path.read_text().rpartition(" at ")
        return holder, float(renewed)
    except (FileNotFoundError, ValueError):
        return "", 0.0


def _me() -> str:
    return f"process {os.getpid()} on {socket.gethostname()}"


def _taken(workdir, holder: str) -> InputError:
    return InputError(
        f"{os.fspath(workdir)!r} is in use by {holder}: two runs would overwrite "
        "each other. Wait for it, stop it, or choose another workdir."
    )
