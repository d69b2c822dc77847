"""Requests to stop a run early: signals, time limits, preemption notices."""

import os
import signal
import socket
import threading
import time

import jax
import numpy as np
from jax.experimental import multihost_utils

SIGNALS = (signal.SIGTERM, signal.SIGINT)
STATUS = 75  # EX_TEMPFAIL, "temporary failure, try again": the same command resumes the run
MARGIN = 10.0  # at least so many seconds before a time limit are reserved for the last checkpoint


class Stopped(Exception):
    """Raised when a run was asked to stop, has saved its state and can be resumed.

    Attributes:
      step: the last step, which is saved; 0 if there was none.
      reason: what asked the run to stop.
    """

    def __init__(self, step: int, reason: str):
        super().__init__(
            f"{reason} at step {step}: the state is saved, the same command resumes from there"
            if step
            else f"{reason} before the first step: the same command starts it again"
        )
        self.step, self.reason = step, reason


class StopRequest:
    """Decides after every call of one or more steps whether the run should stop.

    Use as a context manager: inside it, SIGTERM and SIGINT request a stop after the current step,
    and a second signal ends the process immediately, whatever it is doing. With several processes,
    all stop after the same step: on SIGTERM through JAX's preemption service, which also receives
    TPU maintenance events; on SIGINT and time limits when ``step`` is a multiple of
    ``agree_every``. In that case a second SIGTERM goes to the service too and has no effect.
    """

    def __init__(self, *, max_minutes: float = 0.0):
        """``max_minutes``: time limit, counted from now; 0 for none."""
        self._deadline = time.monotonic() + 60 * max_minutes if max_minutes else None
        self._limit = max_minutes
        self._longest_step, self._asked = 0.0, None
        self._times_asked = 0
        self._signal: int | None = None
        self._former: dict[int, object] = {}

    def __enter__(self) -> "StopRequest":
        if threading.current_thread() is not threading.main_thread():
            return self  # Python handles signals in the main thread only
        # A Python handler runs only once the main thread returns from XLA, which may compile for
        # minutes; the number that Python writes to this socket arrives immediately.
        self._ears, self._mouth = socket.socketpair()
        self._mouth.setblocking(False)
        self._former_fd = signal.set_wakeup_fd(self._mouth.fileno())
        threading.Thread(target=self._listen, args=(self._ears,), daemon=True).start()
        for number in SIGNALS:
            # With several processes, JAX's preemption service handles SIGTERM itself.
            if jax.process_count() == 1 or number != signal.SIGTERM:
                self._former[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *exception) -> None:
        if not self._former:
            return
        for number, handler in self._former.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._former_fd)
        self._mouth.close()  # ends the listening thread

    def _note(self, number, frame=None) -> None:
        self._signal = self._signal or number

    def _listen(self, ears: socket.socket) -> None:
        with ears:
            before = False
            while heard := ears.recv(1):
                if heard[0] not in SIGNALS:
                    continue
                if before:
                    os._exit(128 + heard[0])
                before = True
                self._note(heard[0])

    def before_steps(self) -> str:
        """Reason to stop before the first step; empty if the run should continue."""
        return self._own_reason(0.0) if jax.process_count() == 1 else ""

    def reason(self, step: int, *, agree_every: int = 1, save_seconds: float = 0.0) -> str:
        """Reason to stop after ``step``; empty if the run should continue.

        Args:
          step: the step just done.
          agree_every: number of steps after which several processes ask each other.
          save_seconds: duration of a save.
        """
        now = time.monotonic()
        if self._asked is not None:  # the first step is longer: it is compiled
            self._longest_step = max(self._longest_step, now - self._asked)
        self._asked = now
        self._times_asked += 1
        if jax.process_count() == 1:
            return self._own_reason(save_seconds)
        # The service makes all processes agree on the largest number they passed, plus one. These
        # are numbers of calls, not steps: a call of several steps could jump over that step.
        if multihost_utils.reached_preemption_sync_point(self._times_asked):
            return "stopped by SIGTERM or maintenance"
        if step % agree_every:
            return ""
        own = self._own_reason(save_seconds)
        asked = multihost_utils.process_allgather(np.int32(bool(own)))
        return (own or "stopped, as another process was asked to,") if asked.any() else ""

    def _own_reason(self, save_seconds: float) -> str:
        if self._signal is not None:
            return f"stopped by {signal.Signals(self._signal).name}"
        if self._deadline is None:
            return ""
        margin = min(max(MARGIN, 2 * (save_seconds + self._longest_step)), 60 * self._limit / 2)
        out_of_time = time.monotonic() > self._deadline - margin
        return f"stopped by the limit of {self._limit:g} minutes" if out_of_time else ""
