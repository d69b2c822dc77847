"""Why a run should end before its time: a signal, a time limit, a notice to all processes."""

import contextlib
import os
import signal
import threading
import time

import jax
import numpy as np
from jax.experimental import multihost_utils

SIGNALS = (signal.SIGTERM, signal.SIGINT)
STATUS = 75  # "temporary failure, try again": the same command goes on
MARGIN = 10.0  # seconds before a time limit that are kept for the last checkpoint, at least


class Stopped(Exception):
    """The run was asked to end, saved its state and can go on.

    Attributes:
      step: the last one, which is saved.
      reason: who asked.
    """

    def __init__(self, step: int, reason: str):
        super().__init__(f"{reason} at step {step}: the state is saved, the same command goes on "
                         "from there")
        self.step, self.reason = step, reason


class StopRequest:
    """Asked after every step whether the run should end.

    Use as a context: within it SIGTERM and SIGINT ask for an end after the present step, and a
    second one ends the process at once. With several processes all of them stop after the same
    step: on SIGTERM by JAX's preemption service, which also hears of a TPU's maintenance; on
    SIGINT and time limits where ``step`` is a multiple of ``agree_every``.
    """

    def __init__(self, *, max_minutes: float = 0.0, agree_every: int = 10):
        """``max_minutes``: from now; 0 for no limit."""
        self._deadline = time.monotonic() + 60 * max_minutes if max_minutes else None
        self._limit = max_minutes
        self._agree_every = max(agree_every, 1)
        self._signal: int | None = None
        self._longest_save = 0.0
        self._former: dict[int, object] = {}

    def __enter__(self) -> "StopRequest":
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                # JAX's preemption service listens to SIGTERM itself where there are more processes.
                if jax.process_count() == 1 or number != signal.SIGTERM:
                    self._former[number] = signal.signal(number, self._heard)
        return self

    def __exit__(self, *exception) -> None:
        for number, handler in self._former.items():
            signal.signal(number, handler)

    def _heard(self, number, frame) -> None:
        if self._signal is not None:
            os._exit(128 + number)
        self._signal = number

    @contextlib.contextmanager
    def timing_a_save(self):
        """Around a save: a time limit leaves room for twice the longest one."""
        began = time.monotonic()
        yield
        self._longest_save = max(self._longest_save, time.monotonic() - began)

    def reason(self, step: int) -> str:
        """Why the run should end after ``step``; empty where it should go on."""
        if jax.process_count() == 1:
            return self._own_reason()
        if multihost_utils.reached_preemption_sync_point(step):
            return "preempted"
        if step % self._agree_every:
            return ""
        asked = multihost_utils.process_allgather(np.int32(bool(self._own_reason())))
        return (self._own_reason() or "another process was asked to stop") if asked.any() else ""

    def _own_reason(self) -> str:
        if self._signal is not None:
            return f"stopped by {signal.Signals(self._signal).name}"
        if self._deadline is None:
            return ""
        margin = min(max(MARGIN, 2 * self._longest_save), 60 * self._limit / 2)
        out_of_time = time.monotonic() > self._deadline - margin
        return f"stopped by the limit of {self._limit:g} minutes" if out_of_time else ""
