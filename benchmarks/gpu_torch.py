"""LOOK and kNN by PyTorch, on the GPU if there is one.

Run by ``benchmarks/gpu.py`` with a Python that has torch; does not need jaxpt.
"""

import json
import sys
import time

import neighbor_oracles

CALLS = 1.0  # seconds of calls that are timed together


def milliseconds(call, wait) -> float:
    """Milliseconds of one of many calls, whose last result is waited for."""
    wait(call())
    began = time.perf_counter()
    wait(call())
    calls = max(1, min(1000, int(CALLS / max(1e-6, time.perf_counter() - began))))
    began = time.perf_counter()
    for _ in range(calls):
        result = call()
    wait(result)
    return 1e3 * (time.perf_counter() - began) / calls


def measure(look: list[dict], knn: dict) -> dict:
    """Milliseconds: {"look": [[eager, compiled], …], "knn": …}; None if something fails."""
    import torch

    def wait(_):
        if torch.cuda.is_available():
            torch.cuda.synchronize()

    def time_of(size, compiled):
        torch._dynamo.reset()
        try:
            run = neighbor_oracles.look_by_torch(**size, compiled=compiled)
            return milliseconds(run.step, wait)
        except Exception as error:  # out of memory, or no compiler for torch.compile
            print(f"torch, {size}: {str(error)[:200]}", file=sys.stderr)
            return None

    times = [[time_of(size, compiled) for compiled in (False, True)] for size in look]
    return {"look": times, "knn": milliseconds(neighbor_oracles.knn_by_torch(**knn), wait)}


if __name__ == "__main__":
    print(json.dumps(measure(*map(json.loads, sys.argv[1:]))))
