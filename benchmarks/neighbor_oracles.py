"""Reference implementations: LOOK by torch's matmul and topk, kNN by faiss and scikit-learn.

Run by ``benchmarks/neighbors.py`` with a Python that has torch and faiss, and with its own Python
for scikit-learn; does not need jaxpt. The measurements of jaxpt use the arrays and functions of
this file too.
"""

import ctypes
import gc
import json
import pathlib
import sys
import time

import numpy as np

TEMPERATURE = 0.1


def arrays(n: int, batch: int, dim: int, classes: int) -> dict:
    """Unit rows of Gaussian noise with labels and ids, the same in every process."""
    rng = np.random.default_rng(0)

    def unit(rows):
        vectors = rng.standard_normal((rows, dim), np.float32)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        return vectors

    return {
        "queries": unit(batch),
        "keys": unit(n),
        "query_labels": rng.integers(classes, size=batch).astype(np.int32),
        "key_labels": rng.integers(classes, size=n).astype(np.int32),
        "query_ids": np.arange(batch, dtype=np.int32),
        "key_ids": np.arange(n, dtype=np.int32),
    }


def memory(field: str) -> float:
    """Memory of this process in MB: current (VmRSS) or peak (VmHWM)."""
    status = pathlib.Path("/proc/self/status").read_text()
    return int(status.split(f"{field}:")[1].split()[0]) / 1024


def measure(function, repeats: int) -> dict:
    """Seconds of each call after the first, and peak MB above the memory before the first."""
    gc.collect()  # frees the NumPy arrays that JAX copied
    ctypes.CDLL("libc.so.6").malloc_trim(0)  # returns freed memory to the system
    pathlib.Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before = memory("VmRSS")
    result = function()
    seconds = []
    for _ in range(repeats):
        began = time.perf_counter()
        result = function()
        seconds.append(time.perf_counter() - began)
    return {"seconds": seconds, "extra_mb": memory("VmHWM") - before, "result": result}


def on_device(arrays: dict) -> dict:
    """The arrays as torch's, on the GPU if there is one; products of float32 are exact."""
    import torch

    torch.set_num_threads(2)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return {name: torch.from_numpy(x).to(device) for name, x in arrays.items()}


def look_by_torch(n, batch, dim, k, classes, compiled=False):
    """Value and gradient of LOOK, with loss 0 for queries without a positive neighbour.

    Its attribute ``step`` returns (loss, gradient) on the device.
    """
    import torch

    a = on_device(arrays(n, batch, dim, classes))

    def loss_of(queries):
        s = torch.nn.functional.normalize(queries) @ a["keys"].T
        s = s.masked_fill(a["query_ids"][:, None] == a["key_ids"][None, :], float("-inf"))
        s, index = torch.topk(s, k)
        same = a["key_labels"][index] == a["query_labels"][:, None]
        logits = s / TEMPERATURE
        loss = torch.logsumexp(logits, 1) - torch.logsumexp(logits.masked_fill(~same, -1e30), 1)
        return torch.where(same.any(1), loss, 0.0).mean()

    loss_of = torch.compile(loss_of) if compiled else loss_of

    def step():
        queries = a["queries"].clone().requires_grad_()
        loss = loss_of(queries)
        loss.backward()
        return loss, queries.grad

    def value_and_gradient():
        loss, gradient = step()
        return [loss.item(), gradient.norm().item()]

    value_and_gradient.step = step
    return value_and_gradient


def knn_by_torch(n, batch, dim, k, classes):
    """Indices of the k nearest by torch's matmul and topk, 1,024 queries at a time."""
    import torch

    a = on_device(arrays(n, batch, dim, classes))

    def neighbors():
        parts = [torch.topk(q @ a["keys"].T, k)[1] for q in torch.split(a["queries"], 1024)]
        return torch.cat(parts).cpu().numpy()

    return neighbors


def knn_by_faiss(n, batch, dim, k, classes):
    """Indices of the k nearest by faiss's flat inner-product index."""
    import faiss

    faiss.omp_set_num_threads(2)
    a = arrays(n, batch, dim, classes)
    index = faiss.IndexFlatIP(dim)
    index.add(a.pop("keys"))

    def neighbors():
        return index.search(a["queries"], k)[1]

    return neighbors


def knn_by_sklearn(n, batch, dim, k, classes):
    """Indices of the k nearest unit vectors by scikit-learn's exhaustive search."""
    import sklearn.neighbors

    a = arrays(n, batch, dim, classes)
    index = sklearn.neighbors.NearestNeighbors(n_neighbors=k, algorithm="brute").fit(a.pop("keys"))

    def neighbors():
        return index.kneighbors(a["queries"], return_distance=False)

    return neighbors


def report(functions: dict) -> None:
    """Measures the function named on the command line and prints the result as a line of JSON."""
    what, repeats, shapes, indices = sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4:]
    found = measure(functions[what](**json.loads(shapes)), repeats)
    result = found.pop("result")
    if indices:  # too many to print
        np.save(indices[0], np.asarray(result, np.int32))
        result = None
    print(json.dumps(found | {"result": result}))


if __name__ == "__main__":
    report({"look": look_by_torch, "knn": knn_by_faiss, "knn_sklearn": knn_by_sklearn})
