"""Why a run should end before its time: a signal, a time limit, a notice to all processes."""

import os
import signal
import socket
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
      step: the last one, which is saved; 0 where none was made.
      reason: who asked.
    """

    def __init__(self, step: int, reason: str):
        super().__init__(
            f"{reason} at step {step}: the state is saved, the same command goes on from there"
            if step
            else f"{reason} before the first step: the same command begins again"
        )
        self.step, self.reason = step, reason


class StopRequest:
    """Asked after every call of one or more steps whether the run should end.

    Use as a context: within it SIGTERM and SIGINT ask for an end after the present step, and a
    second one ends the process at once, whatever it is busy with. With several processes all of
    them stop after the same step: on SIGTERM by JAX's preemption service, which also hears of a
    TPU's maintenance; on SIGINT and time limits where ``step`` is a multiple of ``agree_every``.
    There a second SIGTERM is the service's and changes nothing.
    """

    def __init__(self, *, max_minutes: float = 0.0):
        """``max_minutes``: from now; 0 for no limit."""
        self._deadline = time.monotonic() + 60 * max_minutes if max_minutes else None
        self._limit = max_minutes
        self._longest_step, self._asked = 0.0, None
        self._times_asked = 0
        self._signal: int | None = None
        self._former: dict[int, object] = {}

    def __enter__(self) -> "StopRequest":
        if threading.current_thread() is not threading.main_thread():
            return self  # Python hears signals in the main thread only
        # The handler itself runs only once the main thread is back from XLA, which may compile for
        # minutes; what is written to this socket is heard at once.
        self._ears, self._mouth = socket.socketpair()
        self._mouth.setblocking(False)
        self._former_fd = signal.set_wakeup_fd(self._mouth.fileno())
        threading.Thread(target=self._listen, args=(self._ears,), daemon=True).start()
        for number in SIGNALS:
            # JAX's preemption service listens to SIGTERM itself where there are more processes.
            if jax.process_count() == 1 or number != signal.SIGTERM:
                self._former[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *exception) -> None:
        if not self._former:
            return
        for number, handler in self._former.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._former_fd)
        self._mouth.close()  # which ends the listening

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
        """Why the run should end before it has made a step; empty where it should go on."""
        return self._own_reason(0.0) if jax.process_count() == 1 else ""

    def reason(self, step: int, *, agree_every: int = 1, save_seconds: float = 0.0) -> str:
        """Why the run should end after ``step``; empty where it should go on.

        Args:
          step: the one that was made.
          agree_every: steps after which several processes ask each other.
          save_seconds: what a save takes.
        """
        now = time.monotonic()
        if self._asked is not None:  # the first step is longer: it is compiled
            self._longest_step = max(self._longest_step, now - self._asked)
        self._asked = now
        self._times_asked += 1
        if jax.process_count() == 1:
            return self._own_reason(save_seconds)
        # The service agrees on the largest number it was asked with, plus one: not on a step, for
        # a call of several steps would leave that one out.
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
