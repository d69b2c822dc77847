"""Memory that a process has freed, given back to the system."""

import ctypes
import sys


def give_back() -> None:
    """Returns what the C library keeps of freed memory; only glibc can be asked to.

    Each of a process's many threads frees into a heap of its own, of which glibc returns no more
    than the end; what saves take and free in ever new threads adds up over hundreds of them.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim:
        trim(0)
