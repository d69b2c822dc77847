"""Evaluators against plain computations on small tasks, and their constants, which stay."""

import base64
import inspect
import io

import numpy as np
import pytest
from PIL import Image

from jaxpt.data.labels import LabelMap
from jaxpt.data.sources import Dataset, Split
from jaxpt.errors import InputError
from jaxpt.evaluation import (
    cdnv,
    class_separation,
    cka_matrix,
    episodes,
    few_shot,
    fine_purity,
    knn_classify,
    linear_probe,
    mean_per_class_accuracy,
    neural_collapse,
    rank_me,
    retrieval,
    suites,
    uniformity,
)
from jaxpt.evaluation import logistic
from jaxpt.evaluation.task import Measured, make_task, some_rows

N_TRAIN, N_TEST, CLASSES, DIM = 120, 60, 4, 6


def split(n, seed):
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(n, dtype=np.int32) % CLASSES)
    images = rng.integers(256, size=(n, 4, 5, 1), dtype=np.uint8)
    return Split(images, labels, np.arange(n, dtype=np.int32))


@pytest.fixture(scope="module")
def dataset():
    trainval, test = split(N_TRAIN, 0), split(N_TEST, 1)
    held_out = np.arange(N_TRAIN) % 3 == 0
    return Dataset(
        "toy",
        ("a", "b", "c", "d"),
        LabelMap((0, 0, 1, 1), ("low", "high")),
        trainval.take(~held_out),
        trainval.take(held_out),
        trainval,
        test,
    )


def features_of(dataset):
    """Noisy class means, so that nothing is perfect."""

    def features(part):
        examples = getattr(dataset, part)
        noise = np.random.default_rng(len(examples.ids)).normal(size=(len(examples.ids), DIM))
        means = np.random.default_rng(7).normal(size=(CLASSES, DIM))
        return (means[examples.labels] + 0.7 * noise).astype(np.float32)

    return features


@pytest.fixture(scope="module")
def task(dataset):
    return make_task(features_of(dataset), dataset, part="test")


def test_a_task_of_test_fits_on_train_and_validation(dataset, task):
    features = features_of(dataset)
    np.testing.assert_array_equal(task.fit.features, features("trainval"))
    np.testing.assert_array_equal(task.score.features, features("test"))
    np.testing.assert_array_equal(task.validation, np.arange(N_TRAIN) % 3 == 0)
    np.testing.assert_array_equal(task.score.coarse, dataset.test.labels // 2)
    assert task.score.ids[3] == "test/3" and task.fit.ids[3] == "train/3"
    assert task.labels == ("fine", "coarse")


def test_a_task_of_validation_does_not_ask_for_test(dataset):
    asked = []

    def features(part):
        asked.append(part)
        return features_of(dataset)(part)

    found = make_task(features, dataset, part="validation")
    held_out = np.arange(N_TRAIN) % 3 == 0
    assert asked == ["trainval"]
    np.testing.assert_array_equal(found.fit.features, features("trainval")[~held_out])
    np.testing.assert_array_equal(found.score.features, features("trainval")[held_out])
    np.testing.assert_array_equal(found.score.fine, dataset.validation.labels)
    assert found.score.ids[1] == found.score.ids.dtype.type("train/3")
    assert found.validation.shape == (80,) and 12 <= found.validation.sum() <= 20


def test_without_a_label_map_only_fine_labels_are_measured(dataset):
    plain = dataset._replace(coarse=LabelMap((0, 1, 2, 3), dataset.class_names))
    found = make_task(features_of(plain), plain, part="test")
    assert found.labels == ("fine",)
    assert suites.measure("knn", found).values.keys() == {"fine_knn"}
    assert suites.measure("confusion", found).values == {}


@pytest.mark.parametrize(
    ("change", "arguments", "message"),
    [
        ({}, {"part": "train"}, "part must be one of .*, got 'train'"),
        ({}, {"metric": "f1"}, "metric must be one of .*, got 'f1'"),
        ({"features": lambda part: np.zeros((3, 2))}, {}, r"must be \[120, dim\], got \[3, 2\]"),
        (
            {"features": lambda part: np.full((120 if part == "trainval" else 60, 2), np.nan)},
            {},
            "120 examples are not finite",
        ),
        ({"swap": True}, {}, "disjoint parts of trainval"),
        ({"empty": True}, {}, "toy has no test images"),
    ],
)
def test_bad_tasks_are_refused(change, arguments, message, dataset):
    features = change.get("features") or features_of(dataset)
    if "swap" in change:
        dataset = dataset._replace(train=dataset.trainval)
    if "empty" in change:
        dataset = dataset._replace(test=dataset.test.take(np.arange(0)))
    with pytest.raises(InputError, match=message):
        make_task(features, dataset, **{"part": "test", **arguments})


def both(task):
    return (
        ("fine", task.fit.fine, task.score.fine),
        ("coarse", task.fit.coarse, task.score.coarse),
    )


def test_knn_is_the_share_of_right_votes(task):
    found = suites.measure("knn", task, k=7, temperature=0.2).values
    for name, known, wanted in both(task):
        votes = knn_classify(task.fit.features, known, task.score.features, k=7, temperature=0.2)
        assert found[f"{name}_knn"] == np.mean(votes == wanted)
    assert 0.5 < found["fine_knn"] < found["coarse_knn"] < 1


@pytest.mark.parametrize("metric", ["top1", "mean_per_class"])
def test_linear_is_scored_in_the_metric_of_the_set(metric, task):
    few = task._replace(
        metric=metric,
        score=task.score._replace(
            features=task.score.features[:30],
            fine=task.score.fine[:30],
            coarse=task.score.coarse[:30],
        ),
    )
    found = suites.measure("linear", few, l2_grid=(0.1, 1e-4)).values
    for name, known, wanted in both(few):
        probe = linear_probe(
            few.fit.features,
            known,
            few.score.features,
            wanted,
            validation=few.validation,
            l2_grid=(0.1, 1e-4),
        )
        per_class = mean_per_class_accuracy(probe.predictions, wanted)
        assert found[f"{name}_linear"] == (probe.accuracy if metric == "top1" else per_class)
        assert found.get(f"{name}_linear_top1") == (None if metric == "top1" else probe.accuracy)
        if name == "fine":
            assert found["linear_l2"] == probe.l2
            assert abs(per_class - probe.accuracy) > 1e-6  # or the metric would not show


def test_few_shot_is_the_mean_over_draws_at_the_shots_that_there_are(task):
    found = suites.measure("few_shot", task, shots=(1, 5, 30, 40), draws=3, l2=2.0)
    for name, known, wanted in both(task):
        for shots in 1, 5, 30:  # 30 are all of a class
            expected = few_shot(
                task.fit.features, known, task.score.features, wanted, shots=shots, draws=3, l2=2.0
            ).mean()
            assert found.values[f"{name}_{shots}shot"] == expected
    assert "coarse_40shot" in found.values and "fine_40shot" not in found.values
    assert found.notes == ("no fine_40shot: class a has 30 examples to draw from.",)
    logistic = suites.measure("few_shot_logistic", task, shots=(5, 99), draws=2)
    assert (
        logistic.values["fine_5shot_logistic"]
        == few_shot(
            task.fit.features,
            task.fit.fine,
            task.score.features,
            task.score.fine,
            shots=5,
            draws=2,
            head="logistic",
        ).mean()
    )
    assert logistic.values.keys() == {"fine_5shot_logistic", "coarse_5shot_logistic"}
    assert logistic.notes[1].startswith("no coarse_99shot_logistic: class low has 60")


def test_episodes_are_of_scored_images_and_fine_classes(task):
    found = suites.measure("episodes", task, ways=3, shots=(1, 5, 9), queries=10, count=20)
    for shots in 1, 5:
        assert (
            found.values[f"fine_3way{shots}shot"]
            == episodes(
                task.score.features, task.score.fine, ways=3, shots=shots, queries=10, count=20
            ).accuracy
        )
    assert found.values.keys() == {"fine_3way1shot", "fine_3way5shot"}
    assert found.notes == ("no fine_3way9shot with 10 queries: class a has 15 examples.",)
    assert suites.measure("episodes", task, shots=(1,)).notes == (
        "no fine_5way1shot: there are 4 classes.",
    )


def test_retrieval_queries_scored_images_among_themselves(task):
    found = suites.measure("retrieval", task, at=(1, 3)).values
    for name, _, wanted in both(task):
        expected = retrieval(task.score.features, wanted, at=(1, 3))
        assert found[f"{name}_r1"] == expected.recall[1]
        assert found[f"{name}_r3"] == expected.recall[3]
        assert found[f"{name}_map"] == expected.map
    rows = some_rows(N_TEST, 20)
    some = suites.measure("retrieval", task, at=(1,), examples=20).values
    assert some["fine_map"] == retrieval(task.score.features[rows], task.score.fine[rows]).map


def test_geometry_is_of_coarse_classes_of_scored_images(task):
    x, coarse, fine = task.score.features, task.score.coarse, task.score.fine
    assert suites.measure("class_separation", task).values == {
        "class_separation": class_separation(x, coarse)
    }
    assert suites.measure("cdnv", task).values == {"cdnv": cdnv(x, coarse)}
    assert suites.measure("fine_purity", task, k=4).values == {
        "fine_purity": fine_purity(x, coarse, fine, k=4)
    }
    assert suites.measure("effective_rank", task).values["effective_rank"] > 1


def test_rank_me_and_neural_collapse_are_of_fitted_images(task):
    x, coarse = task.fit.features, task.fit.coarse
    assert suites.measure("rank_me", task).values == {"rank_me": rank_me(x)}
    rows = some_rows(N_TRAIN, 50)
    assert suites.measure("rank_me", task, examples=50).values == {"rank_me": rank_me(x[rows])}
    found = suites.measure("neural_collapse", task, classifier_l2=0.01).values
    classifier = logistic.fit(x, coarse, 2, [0.01])
    expected = neural_collapse(x, coarse, weights=classifier.weights[0], bias=classifier.bias[0])
    assert found == pytest.approx(expected._asdict())
    assert found["nc3"] < 2 and 0 < found["nc4"] < 0.3


def test_alignment_pairs_images_of_one_fine_class(task):
    labels = task.score.fine
    tight = np.eye(CLASSES)[labels] @ np.random.default_rng(0).normal(size=(CLASSES, DIM))
    collapsed = task._replace(score=task.score._replace(features=tight))
    found = suites.measure("alignment_uniformity", collapsed).values
    assert found["alignment"] == pytest.approx(0, abs=1e-12)
    assert found["uniformity"] == pytest.approx(uniformity(tight, 2))
    # Two unit vectors of angle a in turn: half of the pairs of a class are |1 − e^{ia}|² apart.
    one = task._replace(
        score=task.score._replace(
            fine=np.array([0, 0, 1, 2, 2, 2]), ids=task.score.ids[:6], features=np.eye(6)
        )
    )
    assert suites.measure("alignment_uniformity", one).values["alignment"] == pytest.approx(2)
    lonely = task._replace(
        score=one.score._replace(
            fine=np.array([0, 0, 1, 2, 3, 4]),
            features=(np.array([[1, 0], [1, 0], [0, 1], [0, 1], [0, 1], [0, 1]])),
        )
    )
    assert suites.measure("alignment_uniformity", lonely).values["alignment"] == 0
    alone = lonely._replace(score=lonely.score._replace(fine=np.arange(len(lonely.score.fine))))
    found = suites.measure("alignment_uniformity", alone)
    assert set(found.values) == {"uniformity"}
    assert found.notes == ("no alignment: no class has two images.",)


def test_cka_compares_layers(task):
    layers = {"one": task.score.features, "two": task.score.features[:, :3] ** 2}
    other = {"first": task.score.features[:, ::-1] * 2}
    found = suites.EVALUATORS["cka"].measure(layers, other, batch_size=32, seed=1)
    expected = cka_matrix(layers, other, batch_size=32, seed=1)
    assert found.details == {
        "layers": ["one", "two"],
        "other_layers": ["first"],
        "matrix": expected.tolist(),
    }
    assert found.values == {"cka_features": expected[-1, -1]}
    assert found.details["matrix"][0][0] == pytest.approx(1)
    with pytest.raises(InputError, match="cka compares two networks"):
        suites.measure("cka", task)


def test_confusion_counts_true_against_predicted(task):
    found = suites.measure("confusion", task, k=5, temperature=0.1)
    votes = knn_classify(
        task.fit.features, task.fit.fine, task.score.features, k=5, temperature=0.1
    )
    matrix = [
        [int(np.sum((task.score.fine == true) & (votes == said))) for said in range(CLASSES)]
        for true in range(CLASSES)
    ]
    wrong = votes != task.score.fine
    within = votes[wrong] // 2 == task.score.fine[wrong] // 2
    assert found.values == {"confused_within": pytest.approx(within.mean())}
    assert found.details == {
        "matrix": matrix,
        "class_names": ["a", "b", "c", "d"],
        "coarse_of": [0, 0, 1, 1],
        "coarse_names": ["low", "high"],
    }
    perfect = task._replace(
        fit=task.fit._replace(features=np.eye(CLASSES)[task.fit.fine]),
        score=task.score._replace(features=np.eye(CLASSES)[task.score.fine]),
    )
    found = suites.measure("confusion", perfect)
    assert found.values == {} and found.notes == ("no confused_within: there are no errors.",)


def test_neighbors_are_the_nearest_and_come_with_their_images(task, dataset):
    found = suites.measure("neighbors", task, queries=6, k=3).details
    unit = [
        x / np.linalg.norm(x, axis=1, keepdims=True)
        for x in (task.fit.features, task.score.features)
    ]
    assert len(found["queries"]) == 6
    # Class by class in turn: the first four queries are of four classes, the six of six images.
    assert sorted(q["label"] for q in found["queries"][:4]) == [0, 1, 2, 3]
    assert len({q["id"] for q in found["queries"]}) == 6
    for query in found["queries"]:
        row = int(query["id"].removeprefix("test/"))
        assert query["label"] == dataset.test.labels[row]
        cosine = unit[0] @ unit[1][row]
        nearest = np.argsort(-cosine)[:3]
        assert [n["id"] for n in query["neighbors"]] == [f"train/{i}" for i in nearest]
        assert [n["label"] for n in query["neighbors"]] == dataset.trainval.labels[nearest].tolist()
        assert [n["cosine"] for n in query["neighbors"]] == pytest.approx(cosine[nearest], abs=1e-4)
        for name, part in [(query["id"], "test")] + [
            (n["id"], "trainval") for n in query["neighbors"]
        ]:
            picture = Image.open(io.BytesIO(base64.b64decode(found["images"][name])))
            np.testing.assert_array_equal(
                np.asarray(picture), getattr(dataset, part).images[int(name.split("/")[1]), ..., 0]
            )


def test_pictures_are_made_smaller_and_may_have_colours(task):
    big = np.zeros((N_TEST, 40, 20, 3), np.uint8)
    big[..., 1] = 200
    large = task._replace(score=task.score._replace(images=big))
    found = suites.measure("neighbors", large, queries=1, k=1, side=10).details
    picture = Image.open(io.BytesIO(base64.b64decode(found["images"][found["queries"][0]["id"]])))
    assert picture.size == (5, 10) and picture.getpixel((2, 5)) == (0, 200, 0)
    with pytest.raises(InputError, match="shown as images"):
        suites.measure("neighbors", task._replace(score=task.score._replace(images=None)))


def test_a_map_shows_the_same_examples_in_plane_and_neighbourhoods(task):
    found = suites.measure("map", task, examples=50).details
    order = np.random.default_rng(0).permutation(N_TEST)[:50]
    assert found["fine"] == task.score.fine[order].tolist()
    assert found["coarse"] == task.score.coarse[order].tolist()
    unit = task.score.features / np.linalg.norm(task.score.features, axis=1, keepdims=True)
    centred = np.float64(unit) - unit.mean(axis=0)
    _, lengths, axes = np.linalg.svd(centred, full_matrices=False)
    plane = (centred @ axes[:2].T)[order]
    np.testing.assert_allclose(np.abs(found["pca"]), np.abs(plane), atol=2e-5)
    assert np.array(found["pca"])[task.score.coarse[order] == 0, 0].mean() < 0
    assert found["pca_share"] == pytest.approx((lengths[:2] ** 2).sum() / (lengths**2).sum())
    tsne = np.array(found["tsne"])
    assert tsne.shape == (50, 2) and tsne.max(axis=0) == pytest.approx(-tsne.min(axis=0))
    assert found == suites.measure("map", task, examples=50).details
    # Neighbours on the map are neighbours in truth: that is what t-SNE is for.
    near = np.argsort(np.linalg.norm(tsne[:, None] - tsne, axis=-1) + 1e9 * np.eye(50))[:, 0]
    assert np.mean(task.score.fine[order][near] == task.score.fine[order]) > 0.5


@pytest.mark.parametrize(
    ("features", "message"),
    [
        (np.ones((N_TEST, 3)), "all features point the same way"),
        (np.arange(N_TEST)[:, None], "three examples of two features"),
    ],
)
def test_features_without_a_map_are_refused(features, message, task):
    flat = task._replace(score=task.score._replace(features=features))
    with pytest.raises(InputError, match=message):
        suites.measure("map", flat)


def test_every_constant_is_pinned():
    """Changed, results no longer compare with those before: mind docs/evaluation.md."""
    grid = suites.EVALUATORS["linear"].constants["l2_grid"]
    np.testing.assert_allclose(grid, np.logspace(-6, 5, 45))
    assert {
        name: {k: v for k, v in e.constants.items() if k != "l2_grid"}
        for name, e in suites.EVALUATORS.items()
    } == {
        "knn": {"k": 20, "temperature": 0.07},
        "linear": {},
        "classifier": {},
        "few_shot": {"shots": (1, 5, 10, 25), "draws": 10, "l2": 10.0},
        "few_shot_logistic": {"shots": (1, 5, 10, 25), "draws": 10},
        "episodes": {"ways": 5, "shots": (1, 5), "queries": 15, "count": 600},
        "retrieval": {"at": (1, 5, 10), "examples": 5000},
        "class_separation": {},
        "alignment_uniformity": {"power": 2, "t": 2, "examples": 5000},
        "neural_collapse": {"classifier_l2": 1e-3, "examples": 50_000},
        "cdnv": {},
        "rank_me": {"examples": 25_600},
        "effective_rank": {},
        "fine_purity": {"k": 20},
        "cka": {"batch_size": 256, "seed": 0},
        "confusion": {"k": 20, "temperature": 0.07},
        "neighbors": {"queries": 20, "k": 8, "side": 128},
        "map": {"examples": 1500, "perplexity": 30, "seed": 0},
    }


def test_constants_are_all_arguments_but_the_task():
    """No default hides in a function: what it takes is in the record."""
    for name, evaluator in suites.EVALUATORS.items():
        parameters = inspect.signature(evaluator.measure).parameters.values()
        keywords = {p.name for p in parameters if p.kind is p.KEYWORD_ONLY}
        assert keywords == evaluator.constants.keys(), name
        assert all(p.default is p.empty for p in parameters), name


def test_the_classifier_is_the_networks_own(task):
    rng = np.random.default_rng(0)
    classes = len(task.coarse_names)
    layer = {
        "kernel": rng.normal(size=(task.score.features.shape[1], classes)),
        "bias": rng.normal(size=classes),
    }
    found = suites.measure("classifier", task._replace(classifier=layer)).values
    best = [
        np.argmax([x @ layer["kernel"][:, c] + layer["bias"][c] for c in range(classes)])
        for x in task.score.features
    ]
    assert found == {"classifier": pytest.approx(np.mean(best == task.score.coarse))}
    with pytest.raises(InputError, match="no linear classifier of its own"):
        suites.measure("classifier", task)
    other = {"kernel": layer["kernel"][:, :1], "bias": layer["bias"][:1]}
    with pytest.raises(InputError, match="classifier has 1 classes, but the set has"):
        suites.measure("classifier", task._replace(classifier=other))


def test_suites_name_evaluators_each_once():
    assert suites.evaluators_of(["knn", "coarse_to_fine", "linear"])[:2] == ("knn", "linear")
    for names in suites.SUITES.values():
        assert set(names) <= suites.EVALUATORS.keys()
    for names, message in (([], "no suite is named"), (["knn", "knm"], "got 'knm'")):
        with pytest.raises(InputError, match=message):
            suites.evaluators_of(names)


def test_bad_evaluators_and_constants_are_refused(task):
    with pytest.raises(InputError, match="evaluator must be one of .*, got 'svm'"):
        suites.measure("svm", task)
    with pytest.raises(InputError, match="knn has no constant tau; it has k, temperature"):
        suites.measure("knn", task, tau=3)
    with pytest.raises(InputError, match="knn is not defined for several labels"):
        suites.measure("knn", task._replace(metric="voc07_map"))


def test_measured_has_values_before_all():
    assert Measured({"x": 1.0}) == ({"x": 1.0}, {}, ())
