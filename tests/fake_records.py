"""Records as a study writes them, with made-up values."""

import numpy as np

from jaxpt.configs.pretrain import digits
from jaxpt.evaluation.measure import PROTOCOL
from jaxpt.report.features import FeatureSet

METHODS = ("cross_entropy", "sup_con", "nca", "look")
METRICS = ("coarse_knn", "fine_knn", "fine_linear", "fine_5shot", "class_separation")


def record(label, seed, values, *, method=None, **changes):
    """One record; ``values`` in the order of METRICS."""
    method = method or label
    config = digits.get_config(method)
    config.seed = seed
    return {
        "key": f"{label}-{seed}", "label": label, "method": method, "data": "digits",
        "part": "test", "seed": seed,
        "values": dict(zip(METRICS, values)) | {"pretrain_seconds": 7.0 + seed},
        "last": {}, "protocol": PROTOCOL, "config": config.to_dict(),
        "history": [{"step": 10, "loss": 0.5}, {"step": 20, "loss": 0.2},
                    {"step": 20, "knn": 0.9}] if seed == 0 else None,
        "device": "cpu (test)", "packages": {"jax": "0.10.2"}, "python": "3.11.7",
        "date": "2026-01-02", "revision": "abc", **changes}


def all_tied(seeds=3):
    """Four methods whose values differ by nothing but noise."""
    rng = np.random.default_rng(0)
    return [record(label, seed, 0.9 + 0.01 * rng.normal(size=5))
            for label in METHODS for seed in range(seeds)]


def separated():
    """Five seeds: LOOK above NCA in fine kNN, below cross-entropy in R², the rest tied."""
    noise = np.array([-0.004, 0.003, 0.0, 0.005, -0.002])
    levels = {"cross_entropy": (0.99, 0.95, 0.96, 0.87, 0.80),
              "sup_con": (0.99, 0.95, 0.96, 0.87, 0.50),
              "nca": (0.99, 0.90, 0.96, 0.87, 0.50), "look": (0.99, 0.95, 0.96, 0.87, 0.50)}
    # Shifted by one seed for each method, so that paired differences vary.
    return [record(label, seed, np.array(levels[label]) + noise[(seed + shift) % 5])
            for shift, label in enumerate(METHODS) for seed in range(5)]


def features(key, n=60):
    """Clusters of ten fine classes, well apart."""
    rng = np.random.default_rng(0)
    fine = np.arange(n, dtype=np.int32) % 10
    points = np.eye(10)[fine] + 0.05 * rng.normal(size=(n, 10))
    return FeatureSet(key, points.astype(np.float32), fine, fine // 5,
                      tuple("0123456789"), ("first five", "last five"))
