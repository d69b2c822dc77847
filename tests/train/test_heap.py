"""Freed memory goes back to the system, also from under what is still in use."""

import ctypes
import pathlib
import sys

import pytest
from small_states import saved

from jaxpt.train import heap

MIB = 1 << 20


def resident():
    """Bytes of this process in memory."""
    return int(pathlib.Path("/proc/self/statm").read_text().split()[1]) * 4096


@pytest.mark.skipif(
    sys.platform != "linux" or not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="needs glibc"
)
def test_what_was_freed_goes_back():
    blocks = [bytes(4096) for _ in range(50 * MIB // 4096)]
    on_top = bytes(4096)  # the end of the heap: nothing below it is returned by itself
    del blocks
    before = resident()
    heap.give_back()
    assert before - resident() > 30 * MIB and len(on_top) == 4096


def test_it_is_done_after_each_save(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(heap, "give_back", lambda: calls.append(1))
    saved(tmp_path, 1, 2, 3)
    assert len(calls) == 3


def test_without_glibc_nothing_happens(monkeypatch):
    monkeypatch.setattr(heap.sys, "platform", "darwin")
    monkeypatch.setattr(heap.ctypes, "CDLL", lambda _: pytest.fail("asked another C library"))
    heap.give_back()
