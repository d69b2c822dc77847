"""Labels and ids of any integer type, and a source tree that nobody installed."""

import os
import pathlib
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest
from xla_flags import xla_flags

import jaxpt
from jaxpt import evaluation, losses, records
from jaxpt.errors import InputError
from jaxpt.ops import knn, memory

ROOT = pathlib.Path(jaxpt.__file__).parent.parent

# Three classes in three directions, so that every right answer is 1.
CLASS = np.arange(36) % 3
X = 5 * np.eye(3)[CLASS] + np.random.default_rng(0).normal(size=(36, 3))
WEIGHTS = np.eye(3)

LABELS = {
    "small": np.array([0, 1, 2]),
    "negative": np.array([-(2**63), -7, -1]),
    "32 bits and more": np.array([2**31, 2**31 + 1, 2**32]),
    "the same in 32 bits": np.array([1, 2**32 + 1, 2**33 + 1]),
    "the same in float64": np.array([2**53, 2**53 + 1, 2**53 + 2]),
    "uint8": np.array([0, 128, 255], np.uint8),
    "uint64": np.array([2**63, 2**63 + 1, 2**64 - 1], np.uint64),
    "whole floats": np.array([-1.0, 0.0, 2.0**52]),
    "a pandas column": np.array([2**40, 2**41, 2**42], object),
}
BOOLEANS = np.array([False, True, True])

# Name → a function of (features, labels, other labels of the same classes) and what it gives.
EVALUATORS = {
    "knn_classify": lambda x, y, z: evaluation.top1(evaluation.knn_classify(x, y, x, k=5), z),
    "linear_probe": lambda x, y, z: evaluation.linear_probe(x, y, x, z, l2_grid=[1e-3]).accuracy,
    "few_shot": lambda x, y, z: evaluation.few_shot(x, y, x, z, shots=3, draws=2).mean(),
    "few_shot, logistic": lambda x, y, z: evaluation.few_shot(
        x, y, x, z, shots=3, draws=2, head="logistic"
    ).mean(),
    "episodes": lambda x, y, z: evaluation.episodes(x, z, ways=3, queries=3, count=9).accuracy,
    "retrieval": lambda x, y, z: evaluation.retrieval(
        x, y, query_features=x, query_labels=z, at=[1]
    ).recall[1],
    "class_separation": lambda x, y, z: evaluation.class_separation(x, z),
    "fine_purity": lambda x, y, z: evaluation.fine_purity(x, 0 * CLASS, z, k=5),
    "fine_purity, coarse": lambda x, y, z: evaluation.fine_purity(x, z, CLASS, k=5),
    "effective_rank": lambda x, y, z: evaluation.effective_rank(x, z),
    "cdnv": lambda x, y, z: evaluation.cdnv(x, z),
    "neural_collapse": lambda x, y, z: evaluation.neural_collapse(x, z, weights=WEIGHTS),
    "top1": lambda x, y, z: evaluation.top1(y, z),
    "mean_per_class": lambda x, y, z: evaluation.mean_per_class_accuracy(y, z),
}


def outcome(evaluator, labels, form=lambda labels: labels):
    labels = labels[CLASS]
    return EVALUATORS[evaluator](X, labels, form(labels))


@pytest.mark.parametrize("evaluator", EVALUATORS)
def test_labels_are_names_whatever_integers_they_are(evaluator):
    expected = outcome(evaluator, LABELS["small"])
    for what, labels in LABELS.items():
        # Equal to the last bit: labels are numbered before anything is computed.
        assert outcome(evaluator, labels) == expected, what
        assert outcome(evaluator, labels, form=list) == expected, f"list of {what}"
    if evaluator in ("knn_classify", "linear_probe", "few_shot", "retrieval", "top1"):
        big = LABELS["uint64"] - np.uint64(2**63)  # int64 in one part, uint64 in the other
        assert EVALUATORS[evaluator](X, big[CLASS].astype(np.int64), big[CLASS]) == expected


def test_booleans_are_two_classes():
    labels = BOOLEANS[CLASS]
    expected = evaluation.knn_classify(X, labels.astype(int), X)
    np.testing.assert_array_equal(evaluation.knn_classify(X, labels, X), expected)
    assert evaluation.linear_probe(X, labels, X, labels, l2_grid=[1e-3]).accuracy == 1


@pytest.mark.parametrize("labels", [LABELS["32 bits and more"], LABELS["uint64"]])
def test_predictions_are_the_labels_themselves(labels):
    predicted = evaluation.knn_classify(X, labels[CLASS], X)
    np.testing.assert_array_equal(predicted, labels[CLASS], strict=True)
    probe = evaluation.linear_probe(X, labels[CLASS], X, labels[CLASS], l2_grid=[1e-3])
    np.testing.assert_array_equal(probe.predictions, labels[CLASS], strict=True)
    np.testing.assert_array_equal(probe.classes, labels, strict=True)


@pytest.mark.parametrize(
    "labels, message",
    [
        ([0.5, 1, 2], "labels must be integers, got 0.5: number the classes"),
        ([0, 1, np.inf], "labels must be integers, got inf"),
        (["cat", "dog", "eel"], "labels must be integers, got 'cat'"),
        (np.array(["cat", "dog", "eel"], object), "labels must be integers, got 'cat'"),
        ([0, 1, 2**64], "labels must be integers of 64 bits, got 18446744073709551616: number"),
        ([0, 1, 2.0**53], "float64, which is exact below 9007199254740992 only, and reach 9007"),
        (np.array([0, 1, 2**24], np.float32), "float32, which is exact below 16777216 only"),
        (np.array([0, 1, 2048], np.float16), "float16, which is exact below 2048 only"),
        ([0, -1, 2**63], "float64, which is exact below"),  # what NumPy makes of such a list
    ],
)
def test_other_labels_are_refused(labels, message):
    for evaluator in EVALUATORS.keys() - {"top1", "mean_per_class"}:  # which may compare names
        with pytest.raises(InputError, match=message):
            outcome(evaluator, np.asarray(labels))


def test_two_parts_that_no_type_holds_are_refused():
    with pytest.raises(InputError, match="test labels hold -1 next to integers of 2.63 and more"):
        evaluation.few_shot(X, LABELS["uint64"][CLASS], X, -CLASS // 2, shots=2)


def test_names_are_not_compared_with_numbers():
    assert evaluation.top1(["cat", "dog"], ["cat", "cat"]) == 0.5
    with pytest.raises(InputError, match="predictions must be integers, got 0.5"):
        evaluation.top1([0.5, 1], [0, 1])
    with pytest.raises(InputError, match="both be integers or both text, got <U3 and int64"):
        evaluation.top1(["cat", "dog"], [0, 1])


@pytest.mark.parametrize(
    "ids",
    [np.arange(36) * 2**32, np.arange(36, dtype=np.uint64) + 2**63, np.arange(36).astype(str)],
)
def test_ids_are_compared_whole(ids):
    """Each row is left out of its own neighbours alone; cut to 32 bits, none would be left."""
    found, expected = (
        evaluation.knn_classify(X, CLASS, X, k=1, train_ids=these, test_ids=these)
        for these in (ids, np.arange(36))
    )
    np.testing.assert_array_equal(found, expected)
    found, expected = (
        evaluation.retrieval(X, CLASS, ids=these, at=[1]) for these in (ids, np.arange(36))
    )
    assert found == expected


UNIT = jnp.asarray(X[:8] / np.linalg.norm(X[:8], axis=1, keepdims=True), jnp.float32)
SMALL = CLASS[:8]
CUT = [2**31, -(2**31) - 1, 2**32 + 1]
LOSSES = {
    "labels": lambda x: losses.sup_con(UNIT, x),
    "ids": lambda x: losses.spread(UNIT, SMALL, x),
    "query_labels": lambda x: losses.look(UNIT, UNIT, x, SMALL, k=2),
    "key_labels": lambda x: losses.sup_moco(UNIT, UNIT, UNIT, SMALL, x),
    "query_ids": lambda x: losses.nca(UNIT, UNIT, SMALL, SMALL, query_ids=x, key_ids=SMALL),
    "key_ids": lambda x: losses.info_nce(UNIT, UNIT, UNIT, query_ids=SMALL, key_ids=x),
    "key_ids of a search": lambda x: knn.search(UNIT, UNIT, 2, query_ids=SMALL, key_ids=x),
    "labels of a memory": lambda x: memory.push(memory.create(8, 3), UNIT, x, SMALL),
    "ids of a memory": lambda x: memory.push(memory.create(8, 3), UNIT, SMALL, x),
}


@pytest.mark.parametrize("argument", LOSSES)
def test_losses_refuse_integers_that_jax_would_cut(argument):
    call = LOSSES[argument]
    for value in CUT:
        with pytest.raises(ValueError, match=f"{argument.split()[0]} hold {value}, which JAX"):
            call(np.where(SMALL == 1, value, SMALL))
    call(np.where(SMALL == 1, 2**31 - 1, SMALL))


def test_cross_entropy_has_no_class_for_a_label_of_64_bits():
    with pytest.raises(ValueError, match="labels hold 4294967297, which JAX would cut to 32 bits"):
        losses.cross_entropy(jnp.zeros((2, 3)), np.array([1, 2**32 + 1]))


@pytest.fixture(scope="module")
def source_tree(tmp_path_factory):
    """Runs Python with jaxpt's source and its dependencies on the path, and nothing installed."""
    root = tmp_path_factory.mktemp("source")
    (root / "work").mkdir()
    for name in "jaxpt", "configs":
        (root / name).symlink_to(ROOT / name)
    (root / "dependencies").mkdir()
    for installed in pathlib.Path(np.__file__).parent.parent.iterdir():
        if "jaxpt" not in installed.name:
            (root / "dependencies" / installed.name).symlink_to(installed)

    def python(*arguments, path=(root, root / "dependencies")):
        return subprocess.run(
            [sys.executable, "-S", *map(str, arguments)],  # -S: no site-packages, so no .pth files
            cwd=root / "work",
            env=os.environ
            | {"PYTHONPATH": os.pathsep.join(map(str, path)), "XLA_FLAGS": xla_flags()},
            capture_output=True,
            text=True,
            check=False,
        )

    assert "No module named 'jaxpt'" in python("-m", "jaxpt.cli", path=()).stderr
    return python


TINY = ["--config.duration=1 steps", "--config.data.limit=60", "--config.batch_size=20"]


@pytest.mark.slow
def test_the_command_runs_from_a_source_tree(source_tree):
    versions = source_tree("-c", "from jaxpt import records; print(records.packages())")
    assert f"'jaxpt': '{jaxpt.__version__}'" in versions.stdout, versions.stderr
    command = ["-m", "jaxpt.cli"]
    done = source_tree(
        *command,
        "pretrain",
        "--config=pretrain/digits.py:cross_entropy,smoke",
        "--workdir=run",
        *TINY,
    )
    assert done.returncode == 0 and done.stdout.startswith("done: run\n"), done.stderr
    done = source_tree(*command, "evaluate", "run", "--suite=knn", "--out=out.jsonl", "--limit=60")
    assert done.returncode == 0 and "(1 new" in done.stdout, done.stderr


def test_a_dependency_without_metadata_has_no_known_version(monkeypatch):
    monkeypatch.setattr(records, "PACKAGES", ("numpy", "a-copy-of-a-package"))
    assert records.packages() == {
        "jaxpt": jaxpt.__version__,
        "numpy": np.__version__,
        "a-copy-of-a-package": "unknown",
    }
