"""Registry of evaluators with their constants, and which of them the suites and the studies take.

The constants are part of every record. Changing one makes results incomparable with earlier ones;
a test pins them all.
"""

from typing import Any, Callable, NamedTuple

from jaxpt.data import protocols
from jaxpt.data.dataset import Dataset
from jaxpt.errors import require
from jaxpt.evaluation import evaluators
from jaxpt.evaluation.linear import KORNBLITH_L2_GRID, L2_GRID
from jaxpt.evaluation.task import Measured, Task, make_task


class Evaluator(NamedTuple):
    """A measurement with its constants.

    Attributes:
      measure: function from a task and the constants to ``Measured``.
      constants: keyword arguments of ``measure``.
      stated: further entries of its protocol in a record, fixed in the code.
    """

    measure: Callable[..., Measured]
    constants: dict[str, Any]
    stated: dict[str, str]


UNIT = {"features": "backbone, unit length"}
PLAIN = {"features": "backbone"}
COARSE = {"classes": "coarse"}
EVALUATORS = {
    "knn": Evaluator(evaluators.knn, {"k": 20, "temperature": 0.07}, UNIT),
    "linear": Evaluator(
        evaluators.linear,
        {"l2_grid": KORNBLITH_L2_GRID},
        {"features": "backbone, standardised", "solver": "L-BFGS"},
    ),
    "classifier": Evaluator(evaluators.classifier, {}, PLAIN | COARSE),
    "few_shot": Evaluator(
        evaluators.few_shot,
        {"shots": (1, 5, 10, 25), "draws": 10, "l2": 10.0},
        {"features": "backbone, whitened"},
    ),
    "few_shot_logistic": Evaluator(
        evaluators.few_shot_logistic,
        {"shots": (1, 5, 10, 25), "draws": 10},
        UNIT | {"l2": "1 / (shots × classes)"},
    ),
    "episodes": Evaluator(
        evaluators.episodes,
        {"ways": 5, "shots": (1, 5), "queries": 15, "count": 600},
        UNIT | {"head": "nearest centroid"},
    ),
    "retrieval": Evaluator(evaluators.retrieval, {"at": (1, 5, 10), "examples": 5000}, UNIT),
    "class_separation": Evaluator(evaluators.class_separation, {}, UNIT | COARSE),
    "alignment_uniformity": Evaluator(
        evaluators.alignment_uniformity,
        {"power": 2, "t": 2, "examples": 5000},
        UNIT | {"pairs": "of one fine class"},
    ),
    "neural_collapse": Evaluator(
        evaluators.neural_collapse,
        {"classifier_l2": 1e-3, "examples": 50_000},
        PLAIN | COARSE | {"classifier": "logistic regression"},
    ),
    "cdnv": Evaluator(evaluators.cdnv, {}, PLAIN | COARSE),
    "rank_me": Evaluator(evaluators.rank_me, {"examples": 25_600}, PLAIN),
    "effective_rank": Evaluator(evaluators.effective_rank, {}, UNIT | COARSE),
    "fine_purity": Evaluator(evaluators.fine_purity, {"k": 20}, UNIT),
    "cka": Evaluator(
        evaluators.cka,
        {"batch_size": 256, "seed": 0},
        {"features": "every layer, averaged over positions"},
    ),
    "confusion": Evaluator(evaluators.confusion, {"k": 20, "temperature": 0.07}, UNIT),
    "neighbors": Evaluator(evaluators.neighbors, {"queries": 20, "k": 8, "side": 128}, UNIT),
    "map": Evaluator(evaluators.feature_map, {"examples": 1500, "perplexity": 30, "seed": 0}, UNIT),
}
PAIRS = "cka"  # measured between two networks, from their layers
SEVERAL_LABELS = ("linear",)  # evaluators defined for several labels per image
SUITES = {
    "coarse_to_fine": (
        "knn",
        "linear",
        "few_shot",
        "few_shot_logistic",
        "episodes",
        "retrieval",
        "confusion",
        "neighbors",
    ),
    "geometry": (
        "class_separation",
        "alignment_uniformity",
        "neural_collapse",
        "cdnv",
        "rank_me",
        "effective_rank",
        "fine_purity",
        "cka",
        "map",
    ),
    "transfer12": ("linear",),
    "vtab1k": ("linear",),
}
SETS = {"transfer12": protocols.TRANSFER12, "vtab1k": protocols.VTAB1K}


def evaluators_of(names) -> tuple[str, ...]:
    """Resolves names of suites and evaluators to evaluators, each once.

    Raises:
      InputError: for an unknown name, or no names.
    """
    require(len(names) > 0, "no suite is named: give at least one.")
    for name in names:
        require(
            name in SUITES or name in EVALUATORS,
            f"suite must be one of {', '.join(SUITES)}, "
            f"or an evaluator ({', '.join(EVALUATORS)}), got {name!r}.",
        )
    return tuple(dict.fromkeys(e for name in names for e in SUITES.get(name, (name,))))


def constants_of(name: str, given: dict[str, Any]) -> dict[str, Any]:
    """Constants of an evaluator, with those in ``given`` overriding its defaults.

    Raises:
      InputError: for an unknown evaluator or constant.
    """
    require(name in EVALUATORS, f"evaluator must be one of {', '.join(EVALUATORS)}, got {name!r}.")
    own = EVALUATORS[name].constants
    unknown = sorted(given.keys() - own.keys())
    require(
        not unknown,
        f"{name} has no constant {', '.join(unknown)}; it has {', '.join(own) or 'none'}.",
    )
    return own | given


def measure(name: str, task: Task, **constants) -> Measured:
    """Runs one evaluator on one task.

    Args:
      name: a key of ``EVALUATORS`` except "cka", which compares the layers of two networks.
      task: see ``make_task``.
      **constants: overrides of the evaluator's constants.

    Raises:
      InputError: for an unknown evaluator or constant, a set with several labels per image if the
        evaluator takes one, and for the errors of the evaluator itself.
    """
    chosen = constants_of(name, constants)
    require(name != PAIRS, f"{PAIRS} compares two networks: use cka_matrix on their layers.")
    require(
        not task.multi_label or name in SEVERAL_LABELS,
        f"{name} is not defined for several labels per image.",
    )
    return EVALUATORS[name].measure(task, **chosen)


# The evaluators that the demo and the studies take: labels to score, and constants that are not the
# evaluator's own.
_FROZEN = {
    "knn": (("coarse", "fine"), {}),
    "linear": (("fine",), {"l2_grid": L2_GRID}),
    "few_shot": (("fine",), {"shots": (5,)}),
    "class_separation": (("fine",), {}),
    "fine_purity": (("fine",), {}),
    "effective_rank": (("fine",), {}),
}
# Part of every record of theirs.
FROZEN_PROTOCOL = {
    name: EVALUATORS[name].stated | constants_of(name, constants)
    for name, (_, constants) in _FROZEN.items()
}


def frozen(features, dataset: Dataset, *, part: str) -> dict[str, float]:
    """Measures a feature function on a set with the constants of ``FROZEN_PROTOCOL``.

    Args:
      features: function from uint8 images [n, height, width, channels] to float [n, dim], of any
        model that was not trained on ``part``.
      dataset: the set to measure on.
      part: "validation": evaluators fit on train and are scored on validation; "test": they fit
        on train + validation and are scored on test, and the linear probe chooses its strength on
        validation.

    Returns:
      name → float for coarse_knn, fine_knn, fine_linear, fine_5shot (accuracies),
      class_separation (R² of the coarse classes), fine_purity and effective_rank.
    """
    task = make_task(lambda name: features(getattr(dataset, name).images), dataset, part=part)
    values = {}
    for name, (labels, constants) in _FROZEN.items():
        values |= measure(name, task._replace(labels=labels), **constants).values
    return values
