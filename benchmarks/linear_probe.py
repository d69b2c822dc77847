"""The linear probe's solver compared with scikit-learn's: time of the whole sweep, and agreement.

    python benchmarks/linear_probe.py [speed] [agreement] [--every=1] [--threads=2]

Speed: 45 strengths from 1e-6 to 1e5 (Kornblith et al. 2019), 10,000 × 512 features, 50 classes.
The features are class means plus noise, both with a decaying spectrum (direction i has deviation
i^-0.5, means lie in the first 64 directions), rotated, every column standardised; a tenth of the
labels is drawn at random. scikit-learn's solver is LogisticRegression by lbfgs in float64, from
strong to weak regularisation, each fit started from the last, with the loosest tolerance of 1e-4,
1e-5, … at which the objective is within 1e-5 of the best known; failed tries are not counted. Its
default tolerance and iterations, without warm start, are measured too, with the remaining error.
Our solver runs before, between and after; the first run compiles and is reported separately. Wall
time, processor time and the load average are recorded: on a busy machine wall time alone misleads.
--every=4 uses every fourth strength for both solvers.

Agreement: digits (pixels, standardised) and Fashion-MNIST (2,000 + 2,000 images, 128 random ReLU
features), every strength: largest excess of our objective and difference in test accuracy.

Adds one record per part to benchmarks/records/linear_probe.jsonl.
"""

import argparse
import os
import pathlib
import time
import warnings

import numpy as np
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits

from jaxpt import records
from jaxpt.data import sources
from jaxpt.evaluation import logistic

RECORDS = pathlib.Path(__file__).parent / "records" / "linear_probe.jsonl"
GRID = np.logspace(-6, 5, 45)
TOLERANCES = tuple(10.0**-i for i in range(4, 11))
WITHIN = 1e-5


def synthetic(rows=10_000, dim=512, classes=50, seed=0):
    """(features float32 [rows, dim], labels [rows])."""
    rng = np.random.default_rng(seed)
    deviation = np.arange(1, dim + 1) ** -0.5
    means = rng.normal(size=(classes, dim)) * deviation * (np.arange(dim) < 64)
    labels = rng.integers(classes, size=rows)
    x = means[labels] + rng.normal(size=(rows, dim)) * deviation
    x = x @ np.linalg.qr(rng.normal(size=(dim, dim)))[0]
    random = rng.random(rows) < 0.1
    return standardised(x, x), np.where(random, rng.integers(classes, size=rows), labels)


def standardised(x, by):
    deviation = by.std(axis=0)
    return ((x - by.mean(axis=0)) / np.where(deviation > 0, deviation, 1)).astype(np.float32)


def objective(x, labels, weights, bias, l2):
    log_p = logistic.log_probabilities(x, weights, bias)
    return -log_p[np.arange(len(x)), labels].mean() + l2 / 2 * np.sum(weights**2)


def timed(function):
    """(wall time and processor time in seconds, result)."""
    began = time.perf_counter(), time.process_time()
    result = function()
    return np.array([time.perf_counter() - began[0], time.process_time() - began[1]]), result


class Peer:
    """scikit-learn's fits on one set, each warm-started from the last one that was kept."""

    def __init__(self, x, labels):
        self.x, self.labels, self.start = np.asarray(x, np.float64), labels, None
        self.tolerances = TOLERANCES

    def fit(self, l2, tol, iterations):
        """Fits one strength: (seconds, objective, model)."""
        model = LogisticRegression(
            C=1 / (len(self.x) * l2), tol=tol, max_iter=iterations, warm_start=True
        )
        if self.start is not None:
            model.coef_, model.intercept_, model.classes_ = self.start
        seconds, _ = timed(lambda: model.fit(self.x, self.labels))
        return seconds, objective(self.x, self.labels, model.coef_.T, model.intercept_, l2), model

    def keep(self, model):
        self.start = model.coef_.copy(), model.intercept_.copy(), model.classes_

    def careful(self, l2, best):
        """Fits with the loosest sufficient tolerance: (record of the fit, model)."""
        for tol in self.tolerances:
            seconds, value, model = self.fit(l2, tol, 20_000)
            if value <= best * (1 + WITHIN):
                break
        # Weaker strengths never succeeded with a looser tolerance, so they do not try one.
        self.tolerances = self.tolerances[self.tolerances.index(tol) :]
        self.keep(model)
        return {
            "l2": float(l2),
            "tol": tol,
            "seconds": seconds.tolist(),
            "objective": float(value),
            "iterations": int(model.n_iter_[0]),
        }, model


def speed(grid):
    x, labels = synthetic()
    classes = int(labels.max()) + 1
    load = [os.getloadavg()[0]]

    def ours():
        return timed(lambda: logistic.fit(x, labels, classes, grid))

    first, found = ours()
    seconds, peer, careful = [ours()[0]], Peer(x, labels), []
    for i in range(len(grid))[::-1]:
        careful.append(peer.careful(grid[i], found.objective[i])[0])
        print(careful[-1], flush=True)
        if i == len(grid) // 3:
            seconds.append(ours()[0])
    seconds.append(ours()[0])
    default = [Peer(x, labels).fit(l2, 1e-4, 100)[:2] for l2 in grid]
    best = np.minimum(found.objective, [row["objective"] for row in careful[::-1]])
    theirs = np.sum([row["seconds"] for row in careful], axis=0)
    middle = np.median(seconds, axis=0)
    return {
        "shapes": {"rows": len(x), "dim": x.shape[1], "classes": classes, "strengths": len(grid)},
        "load": load + [os.getloadavg()[0]],
        "seconds": middle.tolist(),
        "all_seconds": np.array(seconds).tolist(),
        "seconds_with_compiling": first.tolist(),
        "iterations": found.iterations.tolist(),
        "tolerance": 1e-9,
        "excess": float(np.max(found.objective / best - 1)),
        "sklearn_seconds": theirs.tolist(),
        "sklearn_fits": careful,
        "sklearn_default_seconds": np.sum([s for s, _ in default], axis=0).tolist(),
        "sklearn_default_excess": float(
            max(value / b - 1 for (_, value), b in zip(default, best, strict=True))
        ),
        "ratio": (theirs / middle).tolist(),
    }


def digits():
    x, labels = load_digits(return_X_y=True)
    return (
        standardised(x[:797], x[:797]),
        labels[:797],
        standardised(x[797:], x[:797]),
        labels[797:],
    )


def fashion_mnist():
    from jaxpt.configs.pretrain.fashion_mnist import get_config

    data = sources.load(get_config("look").data)
    first = np.random.default_rng(0).normal(size=(784, 128)) / 28
    x, z = (
        np.maximum(part.images[:2000].reshape(2000, -1) / 255 @ first, 0)
        for part in (data.trainval, data.test)
    )
    return (
        x.astype(np.float32),
        data.trainval.labels[:2000],
        z.astype(np.float32),
        data.test.labels[:2000],
    )


def agreement(grid, name, x, labels, test, test_labels):
    found, peer = logistic.fit(x, labels, 10, grid), Peer(x, labels)
    excess, moved = [], []
    for i in range(len(grid))[::-1]:
        _, value, model = peer.fit(grid[i], 1e-8, 20_000)
        peer.keep(model)
        ours = np.argmax(test @ found.weights[i] + found.bias[i], axis=1)
        excess.append(objective(x, labels, found.weights[i], found.bias[i], grid[i]) / value - 1)
        moved.append(np.mean(ours == test_labels) - model.score(test, test_labels))
    return {
        "set": name,
        "rows": len(x),
        "test_rows": len(test),
        "strengths": len(grid),
        "largest_excess": float(max(excess)),
        "largest_accuracy_difference": float(np.max(np.abs(moved))),
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("parts", nargs="*", default=["speed", "agreement"])
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    grid, results = GRID[:: args.every], {}
    with threadpool_limits(args.threads):
        if "agreement" in args.parts:
            results["agreement"] = [
                agreement(grid, "digits", *digits()),
                agreement(grid, "fashion_mnist", *fashion_mnist()),
            ]
        if "speed" in args.parts:
            results["speed"] = speed(grid)
    for part, result in results.items():
        records.append(
            RECORDS,
            {"part": part, "threads": args.threads, "result": result, **records.surroundings()},
        )
        print(part, result)


if __name__ == "__main__":
    main()
