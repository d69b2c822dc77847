"""``jaxpt evaluate`` end to end on real digits, from checkpoints on disk."""

import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time

import ml_collections
import numpy as np
import pytest
from jaxpt.configs.pretrain import defaults, digits, fashion_mnist

from jaxpt import cli, evaluate, pretrain, records
from jaxpt.backbones import open_backbone
from jaxpt.data import small_sets, sources
from jaxpt.data.decode import Framing
from jaxpt.data.sources import Split
from jaxpt.errors import InputError, require
from jaxpt.evaluation import suites
from jaxpt.train.parallel import Devices


# Small, so that the suites are quick; what they are by default tests/evaluation/test_suites.py has.
QUICK = {
    "linear": {"l2_grid": (1.0, 1e-2)},
    "few_shot": {"shots": (1, 5), "draws": 2},
    "few_shot_logistic": {"shots": (5,), "draws": 2},
    "episodes": {"count": 20},
    "map": {"examples": 60},
    "neighbors": {"queries": 10, "k": 3},
}
BOTH = ("coarse_to_fine", "geometry")
VALUES = {
    "knn": {"fine_knn", "coarse_knn"},
    "linear": {"fine_linear", "coarse_linear", "linear_l2"},
    "few_shot": {"fine_1shot", "fine_5shot", "coarse_1shot", "coarse_5shot"},
    "few_shot_logistic": {"fine_5shot_logistic", "coarse_5shot_logistic"},
    "episodes": {"fine_5way1shot", "fine_5way5shot"},
    "retrieval": {f"{c}_{m}" for c in ("fine", "coarse") for m in ("r1", "r5", "r10", "map")},
    "confusion": {"confused_within"},
    "neighbors": set(),
    "map": set(),
    "class_separation": {"class_separation"},
    "alignment_uniformity": {"alignment", "uniformity"},
    "neural_collapse": {
        "nc1",
        "nc2_equinorm",
        "nc2_equiangular",
        "nc2_maximal_angle",
        "nc3",
        "nc4",
    },
    "cdnv": {"cdnv"},
    "rank_me": {"rank_me"},
    "effective_rank": {"effective_rank"},
    "fine_purity": {"fine_purity"},
    "cka": {"cka_features"},
}
DETAILS = {
    "confusion": {"matrix", "class_names", "coarse_of", "coarse_names"},
    "neighbors": {"class_names", "images", "queries", "average_cosine"},
    "map": {"fine", "coarse", "class_names", "coarse_names", "pca", "pca_share", "tsne"},
    "cka": {"layers", "other_layers", "other_label", "other_seed", "matrix"},
}


@pytest.fixture(scope="module")
def workdirs(tmp_path_factory):
    """Workdirs of a short run with each of two losses on digits' two halves."""
    folder = tmp_path_factory.mktemp("pretrained")
    for method in "look", "cross_entropy":
        config = digits.get_config(method)
        config.update(duration="3 epochs", knn_every="0 steps", devices=1)
        pretrain.run(config, str(folder / method), quiet=True)
    return [str(folder / "look"), str(folder / "cross_entropy")]


@pytest.fixture(scope="module")
def measured(workdirs, tmp_path_factory):
    """(outcome, its file, its cache) of all that can be measured of the two runs."""
    folder = tmp_path_factory.mktemp("measured")
    outcome = evaluate.run(
        workdirs, folder / "r.jsonl", suite=BOTH, cache=folder / "cache", constants=QUICK
    )
    return outcome, folder / "r.jsonl", folder / "cache"


def evaluators_of(found, label="look"):
    return {r["evaluator"]: r for r in found if r["label"] == label}


def test_every_evaluator_makes_one_record_of_each_checkpoint(measured, workdirs):
    outcome, path, _ = measured
    assert outcome.skipped == {} and outcome.made == len(outcome.records)
    assert json.loads(json.dumps(outcome.records)) == records.read(path)
    found = evaluators_of(outcome.records), evaluators_of(outcome.records, "cross_entropy")
    of_suites = suites.EVALUATORS.keys() - {"classifier"}
    assert found[0].keys() == of_suites
    assert found[1].keys() == of_suites - {"cka"}  # of a pair
    assert len(outcome.records) == len(found[0]) + len(found[1])
    for name, record in found[0].items():
        assert record["values"].keys() == VALUES[name], name
        assert record.get("details", {}).keys() == DETAILS.get(name, set()), name
        assert record["protocol"].keys() == {name}
        assert record["protocol"][name].items() >= (QUICK.get(name, {})).items()
        assert (record["method"], record["seed"], record["data"], record["part"]) == (
            "look",
            0,
            "digits",
            "test",
        )
        assert record["config"]["data"]["label_map"] == "halves" and record["step"] == 30
        assert record["data_config"]["source"] == "digits" and len(record["checkpoint"]) == 16
        assert {"device", "packages", "date", "python", "revision"} <= record.keys()
    assert found[0]["knn"]["checkpoint"] != found[1]["knn"]["checkpoint"]
    assert found[0]["cka"]["details"]["other_label"] == "cross_entropy"
    assert np.shape(found[0]["cka"]["details"]["matrix"]) == (4, 4)
    assert np.sum(found[0]["confusion"]["details"]["matrix"]) == 597
    assert all(a["key"] != b["key"] for a, b in zip(outcome.records, outcome.records[1:]))


def test_values_are_those_of_the_demo(measured, workdirs):
    """One record of the demo has what the records of one checkpoint have, at equal constants."""
    outcome, _, _ = measured
    dataset = sources.load(digits.get_config().data)
    expected = suites.frozen(open_backbone(workdirs[0]).features, dataset, part="test")
    found = {
        name: value
        for record in outcome.records
        if record["label"] == "look"
        for name, value in record["values"].items()
    }
    same = ("coarse_knn", "fine_knn", "class_separation", "fine_purity", "effective_rank")
    assert {name: found[name] for name in same} == pytest.approx(
        {name: expected[name] for name in same}
    )
    assert found["fine_knn"] > 0.6 and found["fine_linear"] > 0.6 and found["coarse_knn"] > 0.8


def test_with_nothing_to_do_neither_images_nor_networks_are_touched(
    measured, workdirs, monkeypatch
):
    outcome, path, cache = measured
    before = path.read_bytes()

    def never(*args, **kwargs):
        raise AssertionError("there is nothing to do")

    monkeypatch.setattr(sources, "load", never)
    monkeypatch.setattr(evaluate, "extract", never)
    again = evaluate.run(workdirs, path, suite=BOTH, cache=cache, constants=QUICK)
    assert again.made == 0 and path.read_bytes() == before
    assert [r["key"] for r in again.records] == [r["key"] for r in outcome.records]
    # The other way round CKA is the same comparison.
    assert evaluate.run(workdirs[::-1], path, suite=["cka"]).made == 0


def test_features_come_from_the_cache_where_it_has_them(measured, workdirs, tmp_path, monkeypatch):
    outcome, _, cache = measured

    def never(*args, **kwargs):
        raise AssertionError("features were to be in the cache")

    monkeypatch.setattr(evaluate, "extract", never)
    monkeypatch.setattr(evaluate, "extract_layers", never)
    again = evaluate.run(workdirs, tmp_path / "r.jsonl", suite=("knn", "cka"), cache=cache)
    assert [r["values"] for r in again.records] == [
        r["values"]
        for label in ("look", "cross_entropy")
        for r in outcome.records
        if r["label"] == label and r["evaluator"] == "knn"
    ] + [evaluators_of(outcome.records)["cka"]["values"]]
    monkeypatch.undo()
    plain = evaluate.run(workdirs[:1], tmp_path / "plain.jsonl", suite=("rank_me",))
    assert plain.records[0]["values"] == evaluators_of(outcome.records)["rank_me"]["values"]


def test_other_constants_parts_and_labels_make_records_of_their_own(measured, workdirs, tmp_path):
    _, path, cache = measured
    copy = tmp_path / "r.jsonl"
    shutil.copy(path, copy)
    known = len(records.read(path))

    def made(workdir=workdirs[0], **kwargs):
        return evaluate.run([workdir], copy, suite=["knn"], cache=cache, **kwargs).made

    assert made() == 0
    assert made(constants={"knn": {"k": 5}}) == 1
    assert made(part="validation") == 1
    assert made(f"mine={workdirs[0]}") == 1
    assert made(data=["digits"]) == 0  # its label map is that of pre-training
    assert made(fields={"label_map": "parity"}) == 1
    assert made(fields={"limit": 300}) == 1
    found = records.read(copy)[known:]
    assert [r["protocol"]["knn"]["k"] for r in found] == [5, 20, 20, 20, 20]
    assert [r["label"] for r in found] == ["look", "look", "mine", "look", "look"]
    assert [r["data_config"]["limit"] for r in found] == [0, 0, 0, 0, 300]
    assert found[1]["part"] == "validation"
    fine = [r["values"]["fine_knn"] for r in found]
    assert fine[2] == fine[3] != fine[4]  # another label or label map changes no fine label


def test_validation_looks_at_no_test_image(workdirs, tmp_path, monkeypatch):
    load = sources.load

    def without_test(config):
        dataset = load(config)
        return dataset._replace(
            test=Split(
                np.zeros((0, 8, 8, 1), np.uint8), np.zeros(0, np.int32), np.zeros(0, np.int32)
            )
        )

    monkeypatch.setattr(sources, "load", without_test)
    outcome = evaluate.run(
        workdirs,
        tmp_path / "r.jsonl",
        suite=("knn", "cka", "neighbors"),
        part="validation",
        constants={"neighbors": QUICK["neighbors"]},
    )
    assert outcome.skipped == {} and outcome.made == 5
    shown = evaluators_of(outcome.records)["neighbors"]["details"]["queries"]
    assert all(q["id"].startswith("train/") for q in shown)


def test_anybodys_function_is_measured_like_a_network(tmp_path):
    def pixels(images):
        return images.reshape(len(images), -1) / 255.0

    dataset = sources.load(digits.get_config().data)
    model = evaluate.Model("pixels", pixels)
    outcome = evaluate.run(
        [model],
        tmp_path / "r.jsonl",
        data=["digits"],
        cache=tmp_path / "c",
        suite=("knn", "linear"),
        fields={"label_map": "halves"},
        constants={"linear": QUICK["linear"]},
    )
    expected = suites.frozen(pixels, dataset, part="test")
    found = evaluators_of(outcome.records, "pixels")
    assert found["knn"]["values"]["fine_knn"] == expected["fine_knn"] > 0.9
    assert found["knn"]["config"] is None and found["knn"]["method"] == "other"
    assert not (tmp_path / "c").exists()  # nothing says when the function changes
    evaluate.run(
        [model._replace(checkpoint="v1")],
        tmp_path / "r.jsonl",
        data=["digits"],
        cache=tmp_path / "c",
        suite=("knn",),
    )
    assert len(list((tmp_path / "c").glob("*.json"))) == 2


def test_what_cannot_be_had_is_skipped_and_named(workdirs, tmp_path, monkeypatch):
    tried = []
    load, identify = sources.load, sources.identify

    def counting(config):
        tried.append(f"load {config.source}")
        return load(config)

    def identified(config):
        tried.append(config.source)
        return identify(config)

    monkeypatch.setattr(sources, "load", counting)
    monkeypatch.setattr(sources, "identify", identified)
    out = tmp_path / "r.jsonl"
    monkeypatch.setitem(
        suites.EVALUATORS,
        "cdnv",
        suites.EVALUATORS["cdnv"]._replace(measure=lambda task: require(False, "this cannot be.")),
    )
    arguments = {"suite": ("knn", "cdnv"), "data": ["npz", "digits"], "fields": {"limit": 60}}
    outcome = evaluate.run(workdirs, out, **arguments)
    assert tried == ["npz", "digits", "load digits"]  # each once, whether it can be had or not
    assert outcome.made == len(outcome.records) == 2
    assert len(outcome.skipped) == 6
    reasons = evaluate.reasons(outcome.skipped)
    assert reasons[0].startswith("npz: knn of look, seed 0 and 3 more: data.path")
    assert reasons[1].startswith("digits: cdnv of look, seed 0")
    with pytest.raises(InputError, match="data.path"):
        evaluate.run(workdirs, out, strict=True, **arguments)


def test_protocol_suites_bring_their_sets_and_metrics(workdirs, tmp_path, monkeypatch):
    tried = []

    def missing(config):
        tried.append(config.source)
        if config.source == "pets":
            return identify(digits.get_config().data)
        raise InputError(f"{config.source} is not there.")

    load, identify = sources.load, sources.identify
    monkeypatch.setattr(sources, "load", lambda config: load(digits.get_config().data))
    monkeypatch.setattr(sources, "identify", missing)
    outcome = evaluate.run(
        workdirs[:1],
        tmp_path / "r.jsonl",
        suite=("transfer12", "vtab1k"),
        constants={"linear": QUICK["linear"]},
    )
    assert len(tried) == 12 + 19 and len(outcome.skipped) == 30
    (record,) = outcome.records
    assert record["evaluator"] == "linear" and record["data_config"]["image_size"] == 0
    assert record["protocol"]["linear"]["metric"] == "mean_per_class"
    assert record["values"].keys() >= {"fine_linear", "fine_linear_top1"}


def test_two_seeds_are_paired_seed_by_seed_and_tables_show_their_means(tmp_path):
    rng = np.random.default_rng(0)

    def model(label, seed):
        mixing = rng.normal(size=(64, 8))
        return evaluate.Model(
            label,
            lambda images: images.reshape(len(images), -1) @ mixing,
            lambda images: {"last": images.reshape(len(images), -1) @ mixing},
            seed=seed,
        )

    models = [model(label, seed) for seed in (0, 1) for label in ("a", "b", "c")]
    outcome = evaluate.run(models, tmp_path / "r.jsonl", suite=("cka", "knn"), data=["digits"])
    pairs = [
        (r["label"], r["details"]["other_label"], r["seed"], r["details"]["other_seed"])
        for r in outcome.records
        if r["evaluator"] == "cka"
    ]
    assert sorted(pairs) == [(x, y, s, s) for x, y in ("ab", "ac", "bc") for s in (0, 1)]
    (table,) = evaluate.tables(outcome.records)
    cells = [list(column.cells) for column in table.columns]
    assert [column.header for column in table.columns] == ["measured", "a", "b", "c"]
    mean = np.mean(
        [
            r["values"]["fine_knn"]
            for r in outcome.records
            if r["label"] == "a" and r["evaluator"] == "knn"
        ]
    )
    assert cells[1][cells[0].index("fine_knn")] == f"{mean:.4g}"
    assert cells[1][cells[0].index("cka_features with b")] != ""
    assert cells[2][cells[0].index("cka_features with b")] == ""
    assert "cka_features" not in cells[0]


@pytest.mark.parametrize(
    ("models", "changes", "message"),
    [
        ([], {}, "name at least one model"),
        (["a", "a"], {}, "two models are 'a', seed 0: give each a label"),
        (["a"], {"part": "train"}, "part must be one of .*, got 'train'"),
        (["a"], {"suite": ["geomtry"]}, "suite must be one of .*, got 'geomtry'"),
        (["a"], {"suite": []}, "no suite is named"),
        (["a"], {"data": []}, "the pre-training set of 'a' is not known: name a set"),
        (["a"], {"suite": ["cka"]}, "nothing to measure: cka needs two models of the same seed"),
        (["a"], {"fields": {"sise": 3}}, "no field 'sise' to replace; it has"),
        (["a"], {"constants": {"linear": {}}}, "constants are given for linear, which .* run knn"),
        (["a"], {"constants": {"knn": {"j": 1}}}, "knn has no constant j; it has k, temperature"),
    ],
)
def test_bad_calls_are_refused_before_anything_is_measured(models, changes, message, tmp_path):
    def never(images):
        raise AssertionError("nothing is to be measured")

    arguments = {"suite": ["knn"], "data": ["digits"], **changes}
    with pytest.raises(InputError, match=message):
        evaluate.run(
            [evaluate.Model(label, never) for label in models],
            tmp_path / "new" / "r.jsonl",
            **arguments,
        )
    assert not list(tmp_path.iterdir())


def test_weights_are_measured_on_images_framed_as_their_own(tmp_path):
    seen = []

    def features(images):
        seen.append((images.framing, len(images)))
        return np.asarray(images).reshape(len(images), -1).astype(np.float32)

    framing = {"crop_pct": 0.875, "interpolation": "bilinear", "input_size": [3, 224, 224]}
    models = [
        evaluate.Model("a", features, framing=framing),
        evaluate.Model("b", features),
        evaluate.Model("c", features, framing={"crop_pct": 0.7, "interpolation": "random"}),
    ]
    fields = {"image_size": 14}
    outcome = evaluate.run(
        models, tmp_path / "r.jsonl", suite=("knn",), data=("photographs",), fields=fields
    )
    configs = {r["label"]: r["data_config"] for r in outcome.records}
    assert {
        name: (config["crop_pct"], config["interpolation"]) for name, config in configs.items()
    } == {"a": (0.875, "bilinear"), "b": (0.0, ""), "c": (0.7, "")}
    own, plain, tighter = (
        Framing(resize, 14, interpolation=name)
        for resize, name in ((16, "bilinear"), (14, "bicubic"), (20, "bicubic"))
    )
    assert {framing for framing, _ in seen} == {own, plain, tighter}
    # What the config says comes first.
    fields |= {"crop_pct": 1.0, "interpolation": "lanczos"}
    evaluate.run(models, tmp_path / "2.jsonl", suite=("knn",), data=("photographs",), fields=fields)
    assert {framing for framing, _ in seen[6:]} == {Framing(14, 14, interpolation="lanczos")}


def test_both_of_two_compared_weights_see_images_framed_as_their_own(tmp_path):
    seen = []

    def model(label, share):
        def layers(images):
            seen.append((label, images.framing.resize))
            return {"last": np.asarray(images).reshape(len(images), -1).astype(np.float32)}

        return evaluate.Model(label, None, layers, framing={"crop_pct": share})

    models = [model("a", 0.5), model("b", 1.0), model("c", 0.5)]
    arguments = {"suite": ("cka",), "data": ("photographs",), "fields": {"image_size": 14}}
    outcome = evaluate.run(models, tmp_path / "r.jsonl", **arguments)
    assert len(outcome.records) == 3
    assert set(seen) == {("a", 28), ("b", 14), ("c", 28)}


def test_fields_of_pretraining_alone_make_no_other_set(workdirs, tmp_path):
    """What pre-training saw is no matter of the set that it is measured on."""
    config = ml_collections.ConfigDict(defaults.get_config().data.to_dict())
    config.train_on = "train"
    assert "train_on" not in evaluate._of_set(config)
    assert evaluate._of_set(config).label_map == config.label_map


def test_one_and_eight_devices_make_the_same_records(workdirs, tmp_path, monkeypatch):
    values = []
    for limit in 1, 8:
        monkeypatch.setattr(evaluate, "Devices", lambda limit=limit: Devices(limit=limit))
        outcome = evaluate.run(
            workdirs, tmp_path / f"{limit}.jsonl", suite=("knn", "cdnv", "cka", "neighbors")
        )
        values.append([(r["key"], r["values"], r.get("details")) for r in outcome.records])
    assert values[0] == values[1]


def test_the_command_shows_a_table_and_says_what_is_missing(workdirs, tmp_path, capsys):
    out = tmp_path / "new" / "r.jsonl"
    argv = ["evaluate", *workdirs, f"--out={out}", "--suite=knn,few_shot", "--limit=60"]
    assert cli.main(argv) == 0
    said = capsys.readouterr()
    table = {
        row[0]: row[1:]
        for row in (re.findall(r"[\w.\-]+", line) for line in said.out.splitlines())
        if row
    }
    assert table["measured"] == ["look", "cross_entropy"]
    values = [r["values"]["fine_knn"] for r in records.read(out) if r["evaluator"] == "knn"]
    assert table["fine_knn"] == [f"{value:.4g}" for value in values]
    assert "4 new, 0 already there" in said.out and said.err == ""
    assert "note: digits: no fine_25shot: class 4 has 3 examples to draw from." in said.out
    assert list((tmp_path / "new" / "features").glob("*.npy"))
    assert cli.main(argv + ["--data=digits,npz"]) == 3
    said = capsys.readouterr()
    assert "0 new, 4 already there" in said.out
    assert said.err.startswith("skipped: npz: knn of look, seed 0 and 3 more: data.path")
    assert cli.main(argv + ["--data=npz", "--strict"]) == 2
    assert (
        cli.main(
            [
                "evaluate",
                f"a={workdirs[0]}",
                f"--out={tmp_path / 'b.jsonl'}",
                "--cache=",
                "--suite=knn",
                "--part=validation",
                "--label_map=parity",
            ]
        )
        == 0
    )
    (record,) = records.read(tmp_path / "b.jsonl")
    assert (record["label"], record["part"]) == ("a", "validation")
    assert record["data_config"]["label_map"] == "parity"
    assert not (tmp_path / "features").exists()


@pytest.mark.extras
@pytest.mark.skipif(
    not pathlib.Path(small_sets.FASHION_MNIST_DIR).is_dir(), reason="Fashion-MNIST is not installed"
)
def test_fashion_mnist_and_scratch_beside_it(tmp_path):
    config = fashion_mnist.get_config("look")
    config.update(duration="5 steps", knn_every="0 steps", devices=1, memory=500, batch_size=100)
    config.data.limit = 500
    config.model.options = {"widths": (8, 16), "strides": (2, 2)}
    pretrain.run(config, str(tmp_path / "run"), quiet=True)
    scratch = ml_collections.ConfigDict(config.model.to_dict() | {"name": "small_cnn"})
    outcome = evaluate.run(
        [tmp_path / "run", "scratch:0"],
        tmp_path / "r.jsonl",
        constants={name: QUICK[name] for name in ("neighbors", "few_shot")},
        suite=("knn", "confusion", "neighbors", "few_shot", "cka", "cdnv"),
        model_config=scratch,
    )
    assert outcome.skipped == {} and outcome.made == 11
    found = evaluators_of(outcome.records)
    assert found["knn"]["data"] == "fashion_mnist" and found["knn"]["data_config"]["limit"] == 500
    assert np.sum(found["confusion"]["details"]["matrix"]) == 10_000
    assert found["confusion"]["details"]["coarse_names"][0] == "tops"
    assert found["cka"]["details"]["other_label"] == "scratch"
    assert found["knn"]["values"]["coarse_knn"] > 0.5


PROGRAM = """
import json, sys
from jaxpt import evaluate
constants = json.loads(sys.argv[2])
outcome = evaluate.run(sys.argv[3:], sys.argv[1] + "/r.jsonl", suite=("coarse_to_fine", "geometry"),
                       cache=sys.argv[1] + "/cache", constants=constants)
"""


@pytest.mark.slow
def test_killed_at_any_point_it_goes_on_to_the_same_file(measured, workdirs, tmp_path):
    _, whole, cache = measured
    path = tmp_path / "r.jsonl"
    arguments = [sys.executable, "-c", PROGRAM, str(tmp_path), json.dumps(QUICK), *workdirs]
    process = subprocess.Popen(arguments, env=os.environ)
    while process.poll() is None and lines(path) < 3:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL and lines(path) < lines(whole)
    killed = path.read_bytes()
    # As if other kills had come within a write, after any number of records.
    written = whole.read_bytes().splitlines(keepends=True)
    cuts = [b"".join(written[:n]) + written[n][:-20] for n in (0, 7, len(written) - 1)]
    for content, of_features in [(killed, tmp_path / "cache"), *((cut, cache) for cut in cuts)]:
        path.write_bytes(content)
        evaluate.run(workdirs, path, suite=BOTH, cache=of_features, constants=QUICK)
        assert timeless(path) == timeless(whole)
        assert path.read_bytes().endswith(b"}\n")


def timeless(path):
    """Records without what midnight or a commit may change while this runs."""
    return [
        {name: value for name, value in record.items() if name not in ("date", "revision")}
        for record in records.read(path)
    ]


def lines(path: pathlib.Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0
