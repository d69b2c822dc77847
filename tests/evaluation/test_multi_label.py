"""The multi-label probe against scikit-learn, and its choice of strength."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from jaxpt.data.labels import LabelMap
from jaxpt.data.sources import Dataset, Split
from jaxpt.errors import InputError
from jaxpt.evaluation import multi_label_probe, suites, voc07_map
from jaxpt.evaluation.task import make_task

GRID = (10.0, 0.1, 1e-3)


@pytest.fixture(scope="module")
def case():
    """Arguments of a probe: three classes, each in about a third of the images, some in none."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(150, 6)) * [1, 10, 0.1, 1, 1, 1]
    x[:, 5] = 3.0  # says nothing
    directions = rng.normal(size=(6, 3))
    targets = (x @ directions + rng.normal(size=(150, 3)) * 4 > 2).astype(np.uint8)
    difficult = rng.random((150, 3)) < 0.1
    return {
        "train_features": x[:100],
        "train_targets": targets[:100],
        "test_features": x[100:],
        "test_targets": targets[100:],
        "train_difficult": difficult[:100],
        "test_difficult": difficult[100:],
        "validation": np.arange(100) % 4 == 0,
        "l2_grid": GRID,
    }


def by_sklearn(x, targets, kept, queries, l2):
    scale = x.std(axis=0)
    scale[5] = 1.0
    x, queries = (x - x.mean(axis=0)) / scale, (queries - x.mean(axis=0)) / scale
    scores = []
    for c in range(targets.shape[1]):
        n = kept[:, c].sum()
        # A penalty of l2/2 on both of two opposite columns is one of l2/4 on their difference.
        model = LogisticRegression(C=2 / (n * l2), tol=1e-10, max_iter=10_000)
        model.fit(x[kept[:, c]], targets[kept[:, c], c])
        scores.append(model.decision_function(queries))
    return np.stack(scores, axis=1)


def test_strength_and_scores_are_those_of_sklearn(case):
    found = multi_label_probe(**case)
    x, y, kept = case["train_features"], case["train_targets"], ~case["train_difficult"]
    held_out = case["validation"]
    expected = [
        voc07_map(
            by_sklearn(x[~held_out], y[~held_out], kept[~held_out], x[held_out], l2),
            y[held_out],
            difficult=~kept[held_out],
        )
        for l2 in sorted(GRID)
    ]
    np.testing.assert_allclose(found.validation_map, expected, atol=1e-6)
    assert len(set(expected)) == 3 and found.l2 == sorted(GRID)[int(np.argmax(expected))]
    scores = by_sklearn(x, y, kept, case["test_features"], found.l2)
    np.testing.assert_allclose(found.scores, scores, rtol=1e-3, atol=1e-4)
    assert found.map == pytest.approx(
        voc07_map(scores, case["test_targets"], difficult=case["test_difficult"])
    )
    assert found.map != multi_label_probe(**case | {"test_difficult": None}).map
    without = multi_label_probe(**case | {"train_difficult": None})
    assert not np.allclose(found.scores, without.scores, rtol=1e-3)


def test_of_equally_good_strengths_the_largest_wins(case):
    found = multi_label_probe(
        **case
        | {
            "train_features": np.eye(2)[case["train_targets"][:, 0]],
            "train_targets": case["train_targets"][:, :1],
            "test_features": np.eye(2)[case["test_targets"][:, 0]],
            "test_targets": case["test_targets"][:, :1],
            "train_difficult": None,
            "test_difficult": None,
        }
    )
    assert found.l2 == 10.0 and found.map == 1.0


def changed(case, name, change):
    array = np.array(case[name])
    return {name: change(array)}


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        (
            "train_targets",
            lambda y: np.where(y, 1, -1),
            r"train targets must be 0 or 1, got \[-1\]",
        ),
        (
            "train_targets",
            lambda y: y[:50],
            r"train targets must be \[100, classes\], got \[50, 3\]",
        ),
        ("train_targets", lambda y: y[:, 0], r"got \[100\]"),
        ("test_targets", lambda y: y[:, :2], "test_difficult must have the shape of targets"),
        ("test_features", lambda x: x[:, :2], "6 columns but test features 2"),
        ("train_features", lambda x: x * np.nan, "are not finite"),
        ("train_difficult", lambda y: y[:, :2], "train_difficult must have the shape of targets"),
        ("validation", lambda v: v[:9], r"validation must have shape \[100\], got \[9\]"),
        ("validation", lambda v: v & False, "some but not all of the 100 training rows, got 0"),
        ("l2_grid", lambda g: g[:0], "at least one, got"),
        ("l2_grid", lambda g: -g, "must hold positive strengths"),
        ("train_targets", lambda y: y * [0, 1, 1], "class 0 has no positive image to fit on"),
        ("train_targets", lambda y: np.maximum(y, [0, 0, 1]), "class 2 has no negative image"),
    ],
)
def test_bad_input_is_named(name, change, message, case):
    with pytest.raises(InputError, match=message):
        multi_label_probe(**case | changed(case, name, change))


def test_parts_of_different_classes_are_refused(case):
    few = {name: case[name][:, :2] for name in ("test_targets", "test_difficult")}
    with pytest.raises(InputError, match="train targets have 3 classes but test targets 2"):
        multi_label_probe(**case | few)


def test_a_multi_label_set_goes_through_the_linear_evaluator(case):
    images = np.zeros((100, 2, 2, 3), np.uint8)

    def split(part, rows):
        ids = np.arange(100, dtype=np.int32)[rows]
        return Split(
            images[rows], case[f"{part}_targets"][rows], ids, case[f"{part}_difficult"][rows]
        )

    held_out = case["validation"]
    names = ("cat", "dog", "car")
    dataset = Dataset(
        "voc",
        names,
        LabelMap((0, 1, 2), names),
        split("train", ~held_out),
        split("train", held_out),
        split("train", slice(None)),
        split("test", slice(50)),
    )
    task = make_task(
        lambda part: case[{"trainval": "train", "test": "test"}[part] + "_features"],
        dataset,
        part="test",
        metric="voc07_map",
    )
    found = suites.measure("linear", task, l2_grid=GRID).values
    expected = multi_label_probe(**case)
    assert found == {"fine_linear": expected.map, "linear_l2": expected.l2}
    on_validation = make_task(
        lambda part: case["train_features"], dataset, part="validation", metric="voc07_map"
    )
    assert on_validation.validation.sum() == 15  # a fifth of 75
