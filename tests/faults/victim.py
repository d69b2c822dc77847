"""A run that ends itself at a chosen moment: what is forked, and killed."""

import os
import signal
import sys
import time

from etils import epath
from orbax.checkpoint import StandardCheckpointer

from jaxpt import cli, pretrain
from jaxpt.train import checkpoint, metrics

# Name → what is called at the moment, and whether the signal falls before or after it.
MOMENTS = {
    "batch": (pretrain, "rows_of_step", "before"),  # of the memory fill, then of the steps
    "step": (pretrain.StopRequest, "reason", "before"),
    "monitor": (pretrain, "knn_classify", "before"),
    "monitored": (pretrain, "knn_classify", "after"),
    "saving": (StandardCheckpointer, "save", "after"),  # the writing has begun
    "written": (checkpoint, "_write_manifest", "before"),
    "moving": (type(epath.Path("/")), "replace", "before"),  # a whole temporary file
    "whole": (checkpoint, "_write_manifest", "after"),
    "removing": (type(epath.Path("/")), "rmtree", "before"),  # half of an old checkpoint is gone
    "removed": (checkpoint, "_remove", "after"),
    "row": (metrics, "_append", "within"),  # half a line is written: SIGKILL only
    "tidy": (checkpoint, "_tidy", "after"),
    "restore": (checkpoint, "restore", "before"),
    "restored": (checkpoint, "restore", "after"),
}
PAUSE = 0.03  # seconds a step, so that a kill at a random time may meet any of them


def run(
    argv: list[str],
    *,
    moment: str = "",
    count: int = 1,
    number: int = signal.SIGKILL,
    twice: bool = False,
    peers: tuple[str, int] | None = None,
    log: str = os.devnull,
) -> None:
    """Runs the command in this process, and ends the process; never returns.

    Args:
      argv: of ``jaxpt``.
      moment: of MOMENTS, at which the process gets a signal; empty: at none.
      count: at which of its occurrences.
      number: the signal.
      twice: whether it comes twice.
      peers: coordinator's address and number of this one of two processes.
      log: file for what is printed.
    """
    with open(log, "ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    status = 70  # an exception that nobody caught
    try:
        _slow_down()
        if moment:
            _arm(*MOMENTS[moment], count, number, 2 if twice else 1)
        if peers:
            import jax

            jax.distributed.initialize(
                peers[0], num_processes=2, process_id=peers[1], heartbeat_timeout_seconds=10
            )
        status = cli.main(argv)
        if peers:
            jax.distributed.shutdown()
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _slow_down():
    rows_of_step = pretrain.rows_of_step

    def slow(*args, **kwargs):
        time.sleep(PAUSE)
        return rows_of_step(*args, **kwargs)

    pretrain.rows_of_step = slow


def _arm(owner, name, when, count, number, times):
    function, left = getattr(owner, name), count

    def strike():
        for _ in range(times):
            os.kill(os.getpid(), number)
            time.sleep(0.05)

    def armed(*args, **kwargs):
        nonlocal left
        left -= 1
        if left == 0 and when == "within":
            path, text = args
            with open(path, "a") as file:
                file.write(text[: len(text) // 2])
            strike()
        if left == 0 and when == "before":
            strike()
        result = function(*args, **kwargs)
        if left == 0 and when == "after":
            strike()
        return result

    setattr(owner, name, armed)
