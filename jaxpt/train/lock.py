"""One run a folder: a lock that ends with the process that holds it."""

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
# Where there are no locks (object stores), a lease is renewed as long as the holder lives. Seconds.
RENEWED_EVERY, EXPIRES_AFTER, SETTLES_IN = 20.0, 60.0, 2.0


@contextlib.contextmanager
def hold(workdir: epath.Path):
    """Holds the lock of a run's folder.

    On a disk it is the kernel's (``flock``), which ends with the process however it dies. An
    object store, or a disk that knows no locks, gets a lease. That of a process that was killed
    is waited for until it expires.

    Raises:
      InputError: where another live process holds it.
    """
    if is_remote(workdir):
        with _lease(workdir / FILE):
            yield
        return
    try:
        file = open(workdir / FILE, "a+")
    except OSError as error:
        raise unwritable(workdir, error, option="workdir") from error
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
            with contextlib.suppress(OSError):  # a full disk: the lock holds, only its text fails
                os.truncate(workdir / FILE, 0)
                os.write(file.fileno(), _me().encode())
        yield


@contextlib.contextmanager
def _lease(path: epath.Path):
    _wait_until_free(path)
    _renew(path)
    time.sleep(SETTLES_IN)  # of two that came at the same moment, the later one has it
    holder, _ = _read(path)
    if holder != _me():
        raise _taken(path.parent, holder)
    done = threading.Event()

    def keep():
        while not done.wait(RENEWED_EVERY):
            with contextlib.suppress(Exception):  # the store may be away for a moment
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
    """Returns once nobody holds the lease: whoever lives renews it in the meantime.

    Raises:
      InputError: where somebody does.
    """
    first = holder, renewed = _read(path)
    told = False
    while holder not in ("", _me()) and time.time() - renewed < EXPIRES_AFTER:
        if not told:
            told = True
            print(
                f"jaxpt: {os.fspath(path.parent)!r} was in use by {holder}: waiting up to "
                f"{EXPIRES_AFTER:g} seconds to see whether it lives.",
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
    """Who holds a lease, and when it was renewed; ("", 0) where nobody does."""
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
