"""Every evaluator that fits on one part and is scored on another says what is wrong with them."""

import numpy as np
import pytest

from jaxpt.errors import InputError
from jaxpt.evaluation import episodes, few_shot, knn_classify, linear_probe, retrieval

X, LABELS = np.random.default_rng(0).normal(size=(12, 3)), np.arange(12) % 3
EVALUATORS = {
    "linear_probe": lambda x, y, z, w: linear_probe(x, y, z, w, validation=0.25, l2_grid=[1.0]),
    "knn_classify": lambda x, y, z, w: knn_classify(x, y, z),
    "few_shot": lambda x, y, z, w: few_shot(x, y, z, w, shots=2, draws=1),
    "logistic few_shot": lambda x, y, z, w: few_shot(x, y, z, w, shots=2, draws=1, head="logistic"),
    "retrieval": lambda x, y, z, w: retrieval(x, y, query_features=z, query_labels=w),
    "episodes": lambda x, y, z, w: episodes(x, y, ways=2, queries=2, count=2),
}
FITTED = ("linear_probe", "few_shot", "logistic few_shot")  # classes are those of train
SCORED = (*FITTED, "retrieval")  # take labels of test
TESTED = (*SCORED, "knn_classify")  # take a test part
CASES = [
    ("NaN in train", EVALUATORS, {0: np.full((12, 3), np.nan)}, "features of 12 .* not finite"),
    ("infinity in test", TESTED, {2: np.full((12, 3), np.inf)}, "test features .* not finite"),
    ("no rows", EVALUATORS, {0: np.ones((0, 3)), 1: []}, r"n of at least 1, got \[0, 3\]"),
    ("images", EVALUATORS, {0: np.ones((12, 3, 1))}, r"must be \[n, dim\] .* got \[12, 3, 1\]"),
    ("fewer labels", EVALUATORS, {1: LABELS[:5]}, r"12 rows but labels of shape \[5\]"),
    ("fewer test labels", SCORED, {3: LABELS[:5]}, r"12 rows but labels of shape \[5\]"),
    ("other columns", TESTED, {2: np.ones((12, 4))}, "3 columns but test features 4"),
    (
        "one-hot",
        EVALUATORS,
        {1: np.eye(3)[LABELS]},
        r"labels .* \[12, 3\], as if one-hot: .*argmax",
    ),
    ("one-hot test", SCORED, {3: np.eye(3)[LABELS]}, r"test labels .* as if one-hot"),
    ("halves", EVALUATORS, {1: LABELS / 2}, "labels must be integers, got 0.5: number the classes"),
    ("NaN label", EVALUATORS, {1: np.where(LABELS == 1, np.nan, 0)}, "must be integers, got nan"),
    (
        "names",
        EVALUATORS,
        {1: np.array(["cat", "dog", "eel"])[LABELS]},
        "labels must be integers, got 'cat': number the classes",
    ),
    (
        "names in test",
        SCORED,
        {3: np.array(["cat"] * 12)},
        "test labels must be integers, got 'cat'",
    ),
    ("one class", FITTED, {1: 0 * LABELS, 3: 0 * LABELS}, r"two classes.*, got \[0\]"),
    (
        "class only in test",
        FITTED,
        {3: LABELS + 1},
        r"test has class \[3\] without an example in "
        r"train \(1 such",
    ),
]


@pytest.mark.parametrize(
    "name, changes, message",
    [
        pytest.param(name, changes, message, id=f"{name}: {case}")
        for case, names, changes, message in CASES
        for name in names
    ],
)
def test_one_sentence_says_what_is_wrong(name, changes, message):
    arrays = [X, LABELS, X[::-1], LABELS[::-1]]
    EVALUATORS[name](*arrays)
    for place, array in changes.items():
        arrays[place] = array
    with pytest.raises(InputError, match=message) as caught:
        EVALUATORS[name](*arrays)
    assert "\n" not in str(caught.value) and str(caught.value)[-1] == "."
