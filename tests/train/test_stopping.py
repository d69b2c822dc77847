"""A run that is asked to end: by signals, by a time limit, before its first step."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest
from waiting import wait_for

from jaxpt.train import stopping
from jaxpt.train.stopping import Stopped, StopRequest


@pytest.mark.parametrize("number, name", [(signal.SIGTERM, "SIGTERM"), (signal.SIGINT, "SIGINT")])
def test_a_signal_is_a_reason_from_then_on(number, name):
    with StopRequest() as stop:
        assert stop.reason(1) == stop.before_steps() == ""
        os.kill(os.getpid(), number)
        wait_for(stop.before_steps)
        assert stop.reason(2) == stop.reason(3) == stop.before_steps() == f"stopped by {name}"


def test_handlers_are_put_back_and_nothing_stays_open():
    before = [signal.getsignal(number) for number in stopping.SIGNALS]
    files, threads = len(os.listdir("/proc/self/fd")), threading.active_count()
    for _ in range(20):
        with StopRequest():
            assert [signal.getsignal(number) for number in stopping.SIGNALS] != before
    assert [signal.getsignal(number) for number in stopping.SIGNALS] == before
    assert signal.set_wakeup_fd(-1) == -1
    wait_for(lambda: threading.active_count() <= threads)
    assert len(os.listdir("/proc/self/fd")) <= files  # others may have closed theirs


def test_another_signal_is_none_of_its_business():
    heard = []
    former = signal.signal(signal.SIGUSR1, lambda *args: heard.append(args))
    try:
        with StopRequest() as stop:
            os.kill(os.getpid(), signal.SIGUSR1)
            time.sleep(0.05)
            assert heard and stop.reason(1) == ""
    finally:
        signal.signal(signal.SIGUSR1, former)


def test_outside_of_the_main_thread_there_are_no_signals():
    reasons = []

    def run():
        with StopRequest(max_minutes=1e-9) as stop:
            reasons.append(stop.reason(1))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert reasons == ["stopped by the limit of 1e-09 minutes"]


BUSY = """
import ctypes, os, sys, time
from jaxpt.train.stopping import StopRequest
with StopRequest() as stop:
    print("ready", flush=True)
    # The C library's sleep, as XLA's compilation, keeps Python from running any handler.
    until = time.monotonic() + 60
    while time.monotonic() < until:
        ctypes.CDLL(None).usleep(300_000_000)
"""


@pytest.mark.parametrize("number, status", [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_second_signal_ends_the_process_at_once_whatever_it_does(number, status):
    process = subprocess.Popen([sys.executable, "-c", BUSY], stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"ready\n"
    process.send_signal(signal.SIGTERM)
    time.sleep(0.2)
    assert process.poll() is None
    process.send_signal(number)
    assert process.wait(timeout=10) == status
    process.stdout.close()


@pytest.fixture
def clock(monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(stopping.time, "monotonic", lambda: now[0])
    return now


def last_second(stop, clock, **options):
    """How many seconds of the limit are left when the reason comes; a step takes one."""
    for step in range(1, 10_000):
        clock[0] += 1
        if stop.reason(step, **options):
            return 1000 + 3600 - clock[0]


@pytest.mark.parametrize("seconds, left", [(0.0, 10), (4.0, 10), (30.0, 62), (9000.0, 1800)])
def test_a_time_limit_leaves_room_for_two_steps_and_saves(seconds, left, clock):
    # The reason comes with the first step after the margin has begun.
    assert last_second(StopRequest(max_minutes=60), clock, save_seconds=seconds) == left - 1


def test_slow_steps_need_more_room_but_the_first_one_is_compiled(clock):
    stop = StopRequest(max_minutes=60)
    for step, took in enumerate((500, 20, 1), 1):
        clock[0] += took
        assert stop.reason(step) == ""
    clock[0] = 1000 + 3600 - 40
    assert stop.before_steps() == ""
    clock[0] += 1
    assert stop.before_steps() == "stopped by the limit of 60 minutes"


def test_without_a_limit_time_is_no_reason(clock):
    stop = StopRequest()
    clock[0] += 1e9
    assert stop.reason(1) == ""


@pytest.mark.parametrize(
    "step, message",
    [
        (7, "asked at step 7: the state is saved, the same command resumes from there"),
        (0, "asked before the first step: the same command starts it again"),
    ],
)
def test_what_is_said(step, message):
    stopped = Stopped(step, "asked")
    assert (str(stopped), stopped.step, stopped.reason) == (message, step, "asked")


class TestOfManyProcesses:
    @pytest.fixture(autouse=True)
    def others(self, monkeypatch):
        """Three processes; ``asked`` are those of the others, ``asks`` what was asked of them."""
        import numpy as np

        self.asked, self.asks, self.preempted = [0, 0], [], None
        monkeypatch.setattr(stopping.jax, "process_count", lambda: 3)

        def gather(own):
            self.asks.append(int(own))
            return np.array([own, *self.asked])

        monkeypatch.setattr(stopping.multihost_utils, "process_allgather", gather)
        monkeypatch.setattr(
            stopping.multihost_utils,
            "reached_preemption_sync_point",
            lambda step: step == self.preempted,
        )

    def test_sigterm_is_left_to_the_preemption_service(self):
        before = signal.getsignal(signal.SIGTERM)
        with StopRequest() as stop:
            assert signal.getsignal(signal.SIGTERM) == before
            self.preempted = 3  # times asked, for it may be asked after every fourth step
            assert [stop.reason(step, agree_every=9) for step in (4, 8, 12)] == [
                "",
                "",
                "stopped by SIGTERM or maintenance",
            ]

    def test_they_ask_each_other_every_so_often(self):
        with StopRequest() as stop:
            os.kill(os.getpid(), signal.SIGINT)
            wait_for(lambda: stop._signal)
            assert stop.before_steps() == ""  # all of them begin
            reasons = [stop.reason(step, agree_every=5) for step in range(1, 6)]
        assert reasons == ["", "", "", "", "stopped by SIGINT"] and self.asks == [1]

    def test_what_another_one_was_asked_holds_for_all(self):
        self.asked = [0, 1]
        assert "another process was asked" in StopRequest().reason(4, agree_every=2)
        assert self.asks == [0]
