"""One run a folder: a lock that ends with the process that holds it."""

import contextlib
import fcntl
import os
import socket
import time

from etils import epath

from jaxpt.errors import InputError

FILE = "run.lock"
# On object stores there are no locks: a lease is renewed as long as the holder lives.
RENEWED_EVERY, EXPIRES_AFTER = 20.0, 60.0


@contextlib.contextmanager
def hold(workdir: epath.Path):
    """Holds the lock of a run's folder.

    On a local disk it is the kernel's (``flock``), which ends with the process however it dies.

    Raises:
      InputError: where another live process holds it.
    """
    if os.fspath(workdir).startswith(("gs://", "s3://")):
        with _lease(workdir / FILE):
            yield
        return
    with open(workdir / FILE, "a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            file.seek(0)
            raise _taken(workdir, file.read().strip() or "another process") from error
        file.truncate(0)
        file.write(_me())
        file.flush()
        yield


@contextlib.contextmanager
def _lease(path: epath.Path):
    import threading

    with contextlib.suppress(FileNotFoundError):
        holder, _, renewed = path.read_text().rpartition(" at ")
        if holder != _me() and time.time() - float(renewed) < EXPIRES_AFTER:
            raise _taken(path.parent, holder)
    done = threading.Event()

    def renew():
        while True:
            path.write_text(f"{_me()} at {time.time():.0f}")
            if done.wait(RENEWED_EVERY):
                return

    thread = threading.Thread(target=renew, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        path.unlink(missing_ok=True)


def _me() -> str:
    return f"process {os.getpid()} on {socket.gethostname()}"


def _taken(workdir, holder: str) -> InputError:
    return InputError(f"{os.fspath(workdir)!r} is in use by {holder}: two runs would overwrite "
                      "each other. Wait for it, stop it, or choose another workdir.")
