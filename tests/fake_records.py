"""Records as studies and evaluators write them, with made-up values."""

import base64
import io

import numpy as np
from PIL import Image

from jaxpt.configs.pretrain import digits
from jaxpt.evaluation.suites import FROZEN_PROTOCOL
from jaxpt.report.figures import FeatureSet
from jaxpt.methods import METHODS as METHODS_OF_JAXPT

METHODS = ("cross_entropy", "sup_con", "nca", "look")
METRICS = ("coarse_knn", "fine_knn", "fine_linear", "fine_5shot", "class_separation")
SURROUNDINGS = {
    "device": "cpu (test)",
    "packages": {"jax": "0.10.2"},
    "python": "3.11.7",
    "date": "2026-01-02",
    "revision": "abc",
}
CLASSES = tuple("0123456789")
COARSE = ("first five", "last five")


def record(label, seed, values, *, method=None, **changes):
    """One record; ``values`` in the order of METRICS."""
    method = method or (label if label in METHODS_OF_JAXPT else "look")
    config = digits.get_config(method)
    config.seed = seed
    return {
        "key": f"{label}-{seed}",
        "label": label,
        "method": method,
        "data": "digits",
        "part": "test",
        "seed": seed,
        "values": dict(zip(METRICS, values)) | {"pretrain_seconds": 7.0 + seed},
        "last": {},
        "protocol": FROZEN_PROTOCOL,
        "config": config.to_dict(),
        "history": [{"step": 10, "loss": 0.5}, {"step": 20, "loss": 0.2}, {"step": 20, "knn": 0.9}]
        if seed == 0
        else None,
        **SURROUNDINGS,
        **changes,
    }


def all_tied(seeds=3):
    """Four methods whose values differ by nothing but noise."""
    rng = np.random.default_rng(0)
    return [
        record(label, seed, 0.9 + 0.01 * rng.normal(size=5))
        for label in METHODS
        for seed in range(seeds)
    ]


def separated():
    """Five seeds: LOOK above NCA in fine kNN, below cross-entropy in R², the rest undecided."""
    noise = np.array([-0.004, 0.003, 0.0, 0.005, -0.002])
    levels = {
        "cross_entropy": (0.99, 0.95, 0.96, 0.87, 0.80),
        "sup_con": (0.99, 0.95, 0.96, 0.87, 0.50),
        "nca": (0.99, 0.90, 0.96, 0.87, 0.50),
        "look": (0.99, 0.95, 0.96, 0.87, 0.50),
    }
    # Shifted by one seed for each method, so that paired differences vary.
    return [
        record(label, seed, np.array(levels[label]) + noise[(seed + shift) % 5])
        for shift, label in enumerate(METHODS)
        for seed in range(5)
    ]


def features(key, n=60):
    """Clusters of ten fine classes, well apart."""
    rng = np.random.default_rng(0)
    fine = np.arange(n, dtype=np.int32) % 10
    points = np.eye(10)[fine] + 0.05 * rng.normal(size=(n, 10))
    return FeatureSet(key, points.astype(np.float32), fine, fine // 5, CLASSES, COARSE)


def evaluated(
    label, evaluator, values, *, seed=0, data="digits", constants=None, details=None, **changes
):
    """What ``jaxpt evaluate`` writes of one checkpoint, set and evaluator."""
    made = record(label, seed, ())
    key = f"{data}-{label}-{seed}-{evaluator}-{changes.get('finetune_seed', '')}"
    return (
        made
        | {
            "key": key,
            "data": data,
            "evaluator": evaluator,
            "values": values,
            "protocol": {evaluator: constants or {"k": 20}},
            "history": None,
            "step": 600,
            "checkpoint": "0123456789abcdef",
            "data_config": {"source": data},
        }
        | ({"details": details} if details else {})
        | changes
    )


def everything(
    label, *, seed=0, data="digits", class_names=CLASSES, coarse_names=COARSE, shift=0.0, images=8
):
    """A record of every evaluator, details included, each with constants of its own."""
    rng = np.random.default_rng((seed, len(label)))

    def noisy(*levels):
        return [float(level + shift + 0.004 * rng.normal()) for level in levels]

    shots = (
        "1shot",
        "5shot",
        "10shot",
        "25shot",
        "1shot_logistic",
        "5shot_logistic",
        "10shot_logistic",
        "25shot_logistic",
        "5way1shot",
        "5way5shot",
    )
    few = {f"fine_{name}": v for name, v in zip(shots, noisy(*np.linspace(0.5, 0.85, 10)))}
    finetuned = [
        evaluated(
            label,
            "finetune",
            {
                "fine_finetune": noisy(0.9)[0],
                "finetune_validation": 0.9,
                "learning_rate": 1e-3,
                "weight_decay": 0.0,
            },
            seed=seed,
            data=data,
            finetune_seed=s,
            part="test",
        )
        for s in range(2)
    ]
    values = {
        "knn": dict(zip(("fine_knn", "coarse_knn"), noisy(0.9, 0.95))),
        "linear": {"fine_linear": noisy(0.92)[0], "linear_l2": 1e-3},
        "few_shot": few,
        "retrieval": dict(
            zip(("fine_r1", "fine_r5", "fine_r10", "fine_map"), noisy(0.8, 0.9, 0.93, 0.6))
        ),
        "class_separation": {"class_separation": noisy(0.3)[0]},
        "alignment": dict(zip(("alignment", "uniformity"), noisy(0.4, -2.5))),
        "neural_collapse": dict(
            zip(
                ("nc1", "nc2_equinorm", "nc2_equiangular", "nc2_maximal_angle", "nc3", "nc4"),
                noisy(1.2, 0.2, 0.3, 0.4, 0.5, 0.1),
            )
        ),
        "cdnv": {"cdnv": noisy(0.4)[0]},
        "rank_me": {"rank_me": 17.2 + shift},
        "effective_rank": {"effective_rank": 15.1},
        "fine_purity": {"fine_purity": 0.88},
    }
    plain = [evaluated(label, name, v, seed=seed, data=data) for name, v in values.items()]
    drawn = {
        "confusion": confusion(class_names, coarse_names, rng),
        "neighbors": neighbors(class_names, rng, images),
        "map": feature_map(class_names, coarse_names, rng),
        "cka": cka(rng),
    }
    drawn_values = {"confusion": {"confused_within": 0.7}, "cka": {"cka_features": 0.81}}
    return (
        plain
        + finetuned
        + [
            evaluated(label, name, drawn_values.get(name, {}), seed=seed, data=data, details=value)
            for name, value in drawn.items()
        ]
    )


def without_coarse(label, **kind):
    """The same of a set whose classes lie in no coarse ones."""
    made = everything(label, coarse_names=CLASSES, **kind)
    for record in made:
        record["config"]["data"]["label_map"] = "fine"
        record["data_config"] |= {"label_map": "fine"}
        record["values"] = {
            name: value
            for name, value in record["values"].items()
            if name not in ("coarse_knn", "confused_within")
        }
    return made


def confusion(class_names, coarse_names, rng):
    """Most errors inside the coarse class; classes alternate between the coarse ones."""
    n, m = len(class_names), len(coarse_names)
    coarse_of = np.arange(n) % m
    matrix = rng.poisson(np.where(coarse_of[:, None] == coarse_of, 2.5, 0.3)) + 40 * np.eye(n)
    return {
        "matrix": matrix.astype(int).tolist(),
        "class_names": list(class_names),
        "coarse_of": coarse_of.tolist(),
        "coarse_names": list(coarse_names),
    }


def png(rng, side=8, channels=1):
    """A PNG of noise, in base64."""
    pixels = rng.integers(0, 256, (side, side, channels), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels[..., 0] if channels == 1 else pixels).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def neighbors(class_names, rng, side=8, queries=10, k=8):
    """Two neighbours of three are right."""
    n = len(class_names)
    names = [f"train/{i}" for i in range(20)]
    images = {name: png(rng, side) for name in [*names, *(f"test/{i}" for i in range(queries))]}
    return {
        "class_names": list(class_names),
        "images": images,
        "queries": [
            {
                "id": f"test/{q}",
                "label": q % n,
                "neighbors": [
                    {
                        "id": names[(q + i) % 20],
                        "label": (q + (i % 3 == 2)) % n,
                        "cosine": 0.99 - 0.02 * i,
                    }
                    for i in range(k)
                ],
            }
            for q in range(queries)
        ],
    }


def feature_map(class_names, coarse_names, rng, n=400):
    """Clusters on a circle."""
    fine = rng.integers(0, len(class_names), n)
    angle = 2 * np.pi * fine / len(class_names)
    points = np.stack([np.cos(angle), np.sin(angle)], 1) + 0.15 * rng.normal(size=(n, 2))
    return {
        "fine": fine.tolist(),
        "coarse": (fine % len(coarse_names)).tolist(),
        "class_names": list(class_names),
        "coarse_names": list(coarse_names),
        "pca": (0.5 * points).tolist(),
        "pca_share": 0.61,
        "tsne": (20 * points).tolist(),
    }


def cka(rng):
    """Layers most like those at the same depth."""
    layers = ["stem", "block1", "block2", "block3", "features"]
    depth = np.arange(5)
    matrix = np.exp(-0.3 * np.abs(depth[:, None] - depth)) * rng.uniform(0.9, 1, (5, 5))
    return {
        "layers": layers,
        "other_layers": layers,
        "other_label": "cross_entropy",
        "other_seed": 0,
        "matrix": matrix.tolist(),
    }


def scaling(sizes=(150, 300, 600, 1200), seeds=3, methods=("cross_entropy", "look")):
    """Errors that are power laws up to noise: 3·n^−0.5 and 4·n^−0.6 in fine kNN."""
    rng = np.random.default_rng(0)
    found = []
    for label, (a, b) in zip(methods, ((3, 0.5), (4, 0.6))):
        for n in sizes:
            for seed in range(seeds):
                error = a * n**-b * np.exp(0.03 * rng.normal())
                made = record(
                    label,
                    seed,
                    (0.95, 1 - error, 1 - 0.8 * error, 1 - 1.5 * error, 0.4),
                    history=None,
                    key=f"{label}-{n}-{seed}",
                )
                made["config"]["data"]["pretrain_limit"] = n
                found.append(made)
    return found
