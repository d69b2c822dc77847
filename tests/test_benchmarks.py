"""What benchmarks count by themselves; what they time is not tested."""

import ast
import json
import pathlib
import sys
import types

import numpy as np
import pytest

from jaxpt import finetune, pretrain, records
from jaxpt.configs.pretrain import digits
from jaxpt.data import sources
from jaxpt.losses import look

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent / "benchmarks"))

import gpu  # noqa: E402
import imbalance  # noqa: E402
import neighbor_reads  # noqa: E402
import sources as sources_study  # noqa: E402
import text as text_study  # noqa: E402
import transfer_study  # noqa: E402
import unlabelled  # noqa: E402
import weak_scaling  # noqa: E402


PROGRAM = """
  %all-reduce = (f32[], f32[8]{0}, /*index=2*/s32[2,3]{1,0}) all-reduce(%a, %b, %c), channel_id=1
  ROOT %x.1 = bf16[4,16]{1,0} all-gather(%d), dimensions={0}
  %y = f32[9]{0} fusion(%all-reduce), kind=kLoop, calls=%all-gather.2
"""


def test_bytes_of_collectives_are_read_from_a_program():
    found = weak_scaling.bytes_of_collectives(PROGRAM)
    assert found == {
        "all-reduce": 4 + 32 + 24,
        "all-gather": 128,
        "all-to-all": 0,
        "reduce-scatter": 0,
        "collective-permute": 0,
    }


@pytest.fixture
def small(tmp_path, monkeypatch):
    """An empty small study whose records would be in a temporary file, and a way to add some."""
    scale = transfer_study.SCALES["small"]._replace(records=tmp_path / "records.jsonl")
    monkeypatch.setitem(transfer_study.SCALES, "small", scale)

    def measured(jobs, values, correct=None):
        for job in jobs:
            records.append(
                scale.records,
                {"key": "", "part": job.part, "config": job.config, "measure": "transfer"}
                | {"label": job.label, "values": values(job), "correct": correct and correct(job)},
            )
        return transfer_study.Study("small")

    return measured


def test_every_arm_is_tuned_with_the_same_number_of_trials():
    for data in transfer_study.SETS:
        for arm in transfer_study.TUNED:
            tried = transfer_study.trials(data, arm)
            rates = np.array([trial["optimizer.learning_rate"] for trial in tried])
            sixths = np.log(rates / 5e-4) / np.log(2e-2 / 5e-4) * transfer_study.TRIALS
            np.testing.assert_allclose(sixths - np.arange(6), 0.5, atol=0.6)
            assert tried == transfer_study.trials(data, arm)
    shares = [trial["share"] for trial in transfer_study.trials("glyphs", "look")]
    assert sorted(shares) == [0.25, 0.25, 0.5, 0.5, 1.0, 1.0]


def test_few_labels_are_tuned_with_the_same_trials_in_every_arm(tmp_path, monkeypatch):
    monkeypatch.setattr(unlabelled, "RECORDS", tmp_path / "records.jsonl")
    for data in unlabelled.SOURCES:
        for arm in unlabelled.TUNED:
            tried = unlabelled.trials(data, arm)
            low, high = unlabelled.RATES
            places = np.log([trial["rate"] / low for trial in tried]) / np.log(high / low)
            np.testing.assert_allclose(6 * places - np.arange(6), 0.5, atol=0.6)
            temperatures = sorted(trial["head.temperature"] for trial in tried)
            assert temperatures == [0.0, 0.0, 0.05, 0.05, 0.2, 0.2]
            assert tried == unlabelled.trials(data, arm)
    left = unlabelled.Study().left(unlabelled.SOURCES)
    assert len(left) == 48 and {run.part for run in left} == {"validation"}


def test_k_follows_the_number_of_upstream_classes():
    scale, chosen = transfer_study.SCALES["small"], {"share": 0.5}
    for classes, k in ((2, 512), (62, 17)):
        config = transfer_study.config_of(scale, "glyphs", "look", chosen, classes=classes)
        assert config.look.k == k
    schedule = transfer_study.config_of(scale, "glyphs", "look_schedule", chosen)
    assert schedule.look.k_warmup == "600 steps" and schedule.look.k == round(2048 / 3 / 4)


def test_passes_count_the_target_and_the_backward_pass():
    scale = transfer_study.SCALES["small"]
    of = {
        arm: transfer_study.passes(transfer_study.config_of(scale, "glyphs", arm, {}).to_dict())
        for arm in ("look", "nca", "ce_mlp", "sup_con", "ce_mlp_passes", "random")
    }
    passes = {"look": 4, "nca": 4, "ce_mlp_passes": 4, "ce_mlp": 3, "sup_con": 3}
    assert {arm: of[arm] / 76.8 for arm in passes} == pytest.approx(passes)


def test_a_winner_on_an_edge_gets_trials_beyond_it_and_the_test_part_waits(small):
    def values(job):
        return {"coarse_knn": job.config["optimizer"]["learning_rate"], "fine_5shot": 0.5}

    of = transfer_study.Study("small")
    assert of.arm_jobs("glyphs", ["look"], [0]) == [] and of.chosen("glyphs", "look") is None
    of = small(of.tuning_jobs("glyphs", "look")[1], values)
    settings, jobs = of.tuning_jobs("glyphs", "look")
    assert len(settings) == 8 and of.values(jobs).count(None) == 2
    of = small(jobs[6:], values)
    highest = max(trial["optimizer.learning_rate"] for trial in settings)
    assert of.chosen("glyphs", "look")["optimizer.learning_rate"] == highest
    assert [job.part for job in of.arm_jobs("glyphs", ["look"], [0])] == ["test"]


def test_the_planned_contrasts_name_what_is_apart_equal_and_open(small):
    of = transfer_study.Study("small")
    levels = {"look": 0.8, "ce_mlp": 0.8, "sup_con": 0.6, "nca": 0.8}

    def values(job):
        away = abs(np.log(job.config["optimizer"]["learning_rate"] / 0.003))
        seconds = 30.0 if job.label == "look" else 20.0
        return {"coarse_knn": -away, "fine_5shot": 0.0, "pretrain_cpu_seconds": seconds}

    def correct(job):
        rng = np.random.default_rng(job.config["seed"])
        spread = rng.normal(0, 60, (10, 5)) if job.label == "nca" else 0
        counts = np.full((10, 5), 1000 * levels[job.label]) + spread * (job.config["seed"] - 2)
        return {"fine_5shot": {"sizes": [1000] * 5, "correct": counts.round().tolist()}}

    assert "measured yet" in transfer_study.answer(of)
    for arm in transfer_study.HEADLINE:
        of = small(of.tuning_jobs("glyphs", arm)[1], values)
    of = small(of.arm_jobs("glyphs", transfer_study.HEADLINE, range(5)), values, correct)
    words = {peer: word for (_, peer), (_, _, word) in of.planned().items()}
    assert words == {"ce_mlp": "tie", "sup_con": "apart (+)", "nca": "undecided"}
    text = transfer_study.answer(of)
    assert "unfinished: 3 of 6 contrasts, 5 seeds" in text
    assert "is above SupCon (+20.0 points, median of seeds +20.0)" in text
    assert "ties (within ± 1 point) with" in text and "SupCon's: 1.5 × on glyphs." in text
    assert transfer_study.contrasts_markdown(of).count("\n") == 4
    assert transfer_study.highest(of, "glyphs") == "" and "highest" not in text
    levels["sup_moco"] = 0.85
    of = small(of.tuning_jobs("glyphs", "sup_moco")[1], values)
    of = small(of.arm_jobs("glyphs", ["sup_moco"], range(5)), values, correct)
    assert transfer_study.others_markdown(of).splitlines()[2:] == [
        "| SupCon over the memory |  | −5.0 (−5.0 … −5.0) |",
        "| LOOK with k = ½ of a class |  | +0.0 (+0.0 … +0.0) |",  # what tuning chose
    ]


def test_upstream_labels_are_changed_for_three_arms_and_compared(small):
    def values(job):
        level = {"look": 0.8, "ce_mlp": 0.7, "sup_con": 0.5}[job.label.split(",")[0].split()[0]]
        level -= job.config["data"]["wrong_labels"] * (job.config["method"] == "look")
        away = abs(np.log(job.config["optimizer"]["learning_rate"] / 0.003))
        return {"coarse_knn": -away, "fine_5shot": level}

    def correct(job):
        share = round(100 * values(job)["fine_5shot"])
        return {"fine_5shot": {"sizes": [100] * 3, "correct": [[share] * 3] * 2}}

    of = transfer_study.Study("small")
    for arm in transfer_study.GRANULARITY:
        of = small(of.tuning_jobs("glyphs", arm)[1], values)
    for upstream in transfer_study.UPSTREAM.values():
        jobs = of.upstream_jobs(upstream)
        assert len(jobs) == 5 * 3 * len(upstream) and {job.part for job in jobs} == {"test"}
        of = small(jobs, values, correct)
    maps = {job.config["data"]["label_map"] for job in of.upstream_jobs(upstream)}
    assert maps == {"level:1"}
    assert transfer_study.upstream_markdown(of, "wrong labels").splitlines()[-1] == (
        "| 30 % | 5 | 50.0 (0.0) | 70.0 (0.0) | 50.0 (0.0) | −20.0 (−20.0 … −20.0) "
        "| +0.0 (+0.0 … +0.0) |"
    )
    text = transfer_study.upstream_markdown(of, "upstream classes")
    assert [line.split(" | ")[0] for line in text.splitlines()[2:]] == [
        "| 2",
        "| 5",
        "| 20",
        "| 62",
    ]


def test_the_answer_names_the_highest_of_all_arms_but_the_ceiling(small, monkeypatch):
    def values(job):
        rate = job.config["optimizer"]["learning_rate"]
        level = {"ceiling": 0.9, "grafit": 0.8, "look_own": 0.7}.get(job.label, 0.5)
        glyphs = job.config["data"]["source"] == "glyphs"
        return {
            "coarse_knn": -abs(np.log(rate / 0.003)),
            "fine_5shot": level - 0.2 * glyphs,
            "pretrain_cpu_seconds": 20.0,
        }

    def correct(job):
        share = values(job)["fine_5shot"]
        return {"fine_5shot": {"sizes": [100] * 3, "correct": [[round(100 * share)] * 3] * 2}}

    monkeypatch.setitem(transfer_study.SEEDS, "headline", (0, 1))
    monkeypatch.setitem(transfer_study.SEEDS, "other", (0, 1))
    of = transfer_study.Study("small")
    for data in transfer_study.SETS:
        of = small(of.tuning(data, transfer_study.TUNED), values, correct)
        arms = [arm for arm in transfer_study.ARMS if arm != "random"]
        of = small(of.arm_jobs(data, arms, (0, 1)), values, correct)
    assert "highest" not in transfer_study.answer(of)  # one arm has not run
    for data in transfer_study.SETS:
        of = small(of.arm_jobs(data, ["random"], (0, 1)), values, correct)
    assert transfer_study.answer(of).endswith(
        " Of all arms without fine labels, the highest mean has "
        "Grafit (SupCon over the memory + InfoNCE) on both sets (exploratory)."
    )


LOOPS = """
%fused (p.0: f32[8,1024], p.1: f32[2,1024]) -> f32[8,1024] {
  %p.0 = f32[8,1024]{1,0} parameter(0)
  %p.1 = f32[2,1024]{1,0} parameter(1)
  ROOT %update = f32[8,1024]{1,0} dynamic-update-slice(%p.0, %p.1, %i, %i)
}
%body (t: (f32[8,1024])) -> (f32[8,1024]) {
  %s = f32[8,1024]{1,0:T(8,128)} get-tuple-element(%t), index=0
  %sum = f32[8]{0} reduce(%s, %zero), dimensions={1}, to_apply=%add
}
%until_three (t: (s32[])) -> pred[] {
  %limit = s32[]{:T(128)} constant(3)
  ROOT %less = pred[] compare(%n, %limit), direction=LT
}
%until_done (t: (pred[8])) -> pred[] {
  ROOT %any = pred[] fusion(%done), kind=kLoop, calls=%or
}
ENTRY %main (q: f32[2,1024], z: f32[1024,128]) -> f32[8] {
  %q = f32[2,1024]{1,0} parameter(0)
  %z = f32[1024,128]{1,0} parameter(1)
  %product = f32[8,1024]{1,0} fusion(%s.0, %q), kind=kLoop, calls=%fused
  %copy = f32[1024,128]{0,1} copy(%z)
  %fixed = (f32[8,1024]) while(%t), condition=%until_three, body=%body
  %free = (f32[8,1024]) while(%t), condition=%until_done, body=%body
}
"""


def test_reads_are_counted_as_often_as_loops_run_and_slices_as_slices():
    row = 4 * 1024
    reads, writes, keys_read, keys_written = neighbor_reads.Program(LOOPS, lambda _: 5).traffic()
    small = 4 * 8  # the sums
    assert writes == 2 * row + (3 + 5) * small
    assert reads == 2 * row + (3 + 5) * 8 * row
    assert keys_read == keys_written == 4 * 1024 * 128


def test_the_sketch_finds_the_neighbours_of_look():
    queries, keys = neighbor_reads.features("clusters", 8, 300)
    labels = np.random.default_rng(0).integers(4, size=308)
    arrays = queries, keys, labels[:8], labels[8:]
    expected, stats = look(*arrays, k=20, no_positive="drop")
    losses, (missing, purity) = neighbor_reads.sketch(*arrays, 20)
    np.testing.assert_allclose(losses, expected, rtol=1e-5, atol=1e-6)
    assert missing.mean() == stats.no_positive and np.isclose(purity.mean(), stats.purity)


def test_the_gpus_table_has_the_latest_record_of_each_row_of_a_device():
    def record(device, part, revision, **times):
        rows = [{"what": what, "ms": {"jaxpt": ms}, "mb": None} for what, ms in times.items()]
        about = {"packages": {"jax": "0.11.2"}, "date": "2026-11-27", "revision": revision}
        return {"device": device, "part": part, "rows": rows} | about

    table = gpu.markdown(
        [
            record("old", "look", "r0", small=9.0),
            record("new", "knn", "r1", nearest=50.0),
            record("new", "look", "r1", small=1.0, large=20.0),
            record("new", "look", "r2", large=15.0),
        ]
    )
    lines = [line.split("|")[1:3] for line in table.splitlines() if line.startswith("| ")]
    assert [[cell.strip() for cell in line] for line in lines] == [
        ["what", "jaxpt, ms"],
        ["---", "---:"],
        ["small", "1"],
        ["large", "15"],
        ["nearest", "50"],
        ["what", "jaxpt, ms"],
        ["---", "---:"],
        ["small", "9"],
    ]
    assert [f"revision r{i}" in table for i in range(4)] == [True, True, True, False]


def test_the_text_example_shows_records_of_its_own_code_with_the_settings_that_they_chose():
    found = text_study.latest()
    assert all(r["code"] == text_study.code()[1] for r in found), "run benchmarks/text.py"
    notebook = json.loads(text_study.NOTEBOOK.read_text())
    sources = ["".join(cell["source"]) for cell in notebook["cells"]]
    (cell,) = [source for source in sources if source.startswith("SETTINGS = ")]
    settings = ast.literal_eval(ast.parse(cell).body[0].value)
    assert all(settings[name] in trials for name, trials in text_study.TRIALS.items())
    assert settings | text_study.chosen(found) == settings


def text_record(label, seed, settings, value, part="test", correct=(0, 0)):
    values = {"package": value, text_study.MODULE: sum(correct) / 20}
    return {"part": part, "label": label, "seed": seed, "settings": settings, "values": values} | {
        "correct": list(correct),
        "sizes": [10, 10],
    }


def test_text_settings_are_chosen_once_every_trial_of_a_loss_is_known():
    trials = text_study.TRIALS["LOOK"]
    found = [
        text_record("LOOK", seed, trial, 0.1 * i, "validation")
        for i, trial in enumerate(trials[:-1])
        for seed in text_study.TUNING_SEEDS
    ]
    assert text_study.chosen(found) == {}
    found += [
        text_record("LOOK", seed, trials[-1], 0.2, "validation") for seed in text_study.TUNING_SEEDS
    ]
    assert text_study.chosen(found) == {"LOOK": trials[4]}


def test_text_contrasts_pair_the_seeds_that_both_arms_have(monkeypatch):
    best = {name: trials[0] for name, trials in text_study.TRIALS.items()}
    monkeypatch.setattr(text_study, "chosen", lambda found: best)
    found = [text_record(text_study.N_GRAMS, 0, {}, 0.0, correct=(5, 5))]
    for name in (*text_study.TRIALS, text_study.UNTRAINED):
        for seed in range(4 if name == "SupCon" else 6):
            correct = (9, 9) if name == "LOOK" else (5, 5)
            found.append(text_record(name, seed, best.get(name, {}), 0.0, correct=correct))
    found.append(text_record("LOOK", 0, {"k": "another"}, 0.0, correct=(0, 0)))  # not chosen
    contrasts = text_study.contrasts(found)
    assert {name: d.n for name, (d, _, _) in contrasts.items()} == {
        "cross-entropy": 6,
        "SupCon": 4,
        "NCA": 6,
        text_study.UNTRAINED: 6,
        text_study.N_GRAMS: 6,
    }
    for d, _, word in contrasts.values():
        assert abs(d.mean - 0.4) < 1e-9 and word == "apart (+)"


IMBALANCE = {  # accuracy by method, remedy and ratio
    ("ce_mlp", "plain"): {1: 0.8, 10: 0.7, 100: 0.6},
    ("look", "plain"): {1: 0.9, 10: 0.8, 100: 0.65},
    ("sup_con", "plain"): {1: 0.85, 10: 0.7, 100: 0.55},
    ("moco_v2", "plain"): {1: 0.5, 10: 0.5, 100: 0.4},
    ("look", "balanced"): {100: 0.7},
    ("look", "sam"): {100: 0.62},
    ("look", "rw_sam"): {100: 0.68},
}


@pytest.fixture
def imbalanced(tmp_path, monkeypatch):
    """An empty study of imbalance, and a way to add records of jobs by their labels."""
    monkeypatch.setattr(imbalance, "RECORDS", tmp_path / "records.jsonl")

    def measured(jobs):
        for job in jobs:
            method, remedy, ratio = job.label.split()
            share = IMBALANCE.get((method, remedy), {}).get(int(ratio), 0.5)
            if job.part == "validation":  # the middle of the rates and of the radii
                share -= abs(job.config["optimizer"]["learning_rate"] - 3e-3)
                share -= abs(job.config["rw_sam"]["rho"] - 0.03)
            counts = {"sizes": [100] * 3, "correct": [[round(100 * share)] * 3] * 2}
            measures = (imbalance.PRIMARY, *imbalance.SHOTS, *imbalance.OTHERS)
            seconds = 20.0 if remedy.endswith("sam") else 10.0
            records.append(
                imbalance.RECORDS,
                {"key": "", "part": job.part, "config": job.config, "measure": "transfer"}
                | {"values": dict.fromkeys(measures, share) | {"pretrain_cpu_seconds": seconds}}
                | {"correct": dict.fromkeys(measures, counts)},
            )
        return imbalance.Results()

    return measured


def test_imbalance_is_tuned_at_ratio_100_before_its_test_part(imbalanced):
    of = imbalance.Results()
    (_, rates), (_, radii), (_, test) = of.stages()
    assert len(rates) == 3 * 4 and not radii and not test
    assert {(job.part, job.label.split(" ", 1)[1]) for job in rates} == {
        ("validation", "plain 100")
    }
    of = imbalanced(rates)
    (_, radii), (_, test) = of.stages()[1:]
    assert len(radii) == 9 and len(test) == 5 * (3 * 4 + 2 + 4)  # all but those with a radius
    for job in radii:
        assert job.config["optimizer"]["learning_rate"] == 3e-3
        assert job.config["rw_sam"]["alpha"] == 1 and job.config["data"]["train_on"] == "train"
        assert job.config["data"]["long_tail"] == "exponential:100"
    of = imbalanced(radii)
    test = of.stages()[2][1]
    assert len(test) == 5 * (3 * 4 + 4 + 6 + 2) and {job.part for job in test} == {"test"}
    for job in test:
        remedy, ratio = job.label.split()[1:]
        data, sam = job.config["data"], job.config["rw_sam"]
        assert data["long_tail"] == f"exponential:{ratio}" and data["long_tail_images"] == 10_000
        assert data["long_tail_seed"] == job.config["seed"] and data["train_on"] == "trainval"
        assert sam["rho"] == (0.03 if remedy.endswith("sam") else 0)
        assert remedy != "sam" or sam["alpha"] == 0
    assert of.chosen("look", imbalance.RADIUS) == {imbalance.RADIUS: 0.03}


def test_imbalance_is_compared_with_plain_pre_training_and_with_no_imbalance(imbalanced):
    of = imbalanced([])
    for stage in range(3):
        jobs = of.stages()[stage][1]
        of = imbalanced([job for job in jobs if job.part != "test" or job.config["seed"] < 2])
    planned = {key: (c.mean, c.n, word) for key, (c, _, word) in imbalance.planned(of).items()}
    assert planned["look", "balanced"] == (pytest.approx(0.05), 2, "apart (+)")
    assert planned["look", "sam"] == (pytest.approx(-0.03), 2, "apart (−)")
    assert planned["look", "weights"] == (pytest.approx(0.06), 2, "apart (+)")
    text = imbalance.remedies_markdown(of)
    assert "| LOOK: rwSAM − SAM | 2 | +6.0 (+6.0 … +6.0)" in text and "| 1.0 × |" in text
    (line,) = [line for line in text.splitlines() if line.startswith("| LOOK: SAM (α = 0) |")]
    assert line.count("−3.0 (−3.0 … −3.0)") == 6 and line.endswith("| 2.0 × |")
    text = imbalance.ratios_markdown(of)
    assert "| LOOK, ratio 10 | 2 | 80.0 (0.0) |" in text
    assert "| LOOK, 100 − 1 | 2 | −25.0 (−25.0 … −25.0) |" in text
    assert imbalance.lead_markdown(of).splitlines()[-1] == (
        "| 100 | 2 | +5.0 (+5.0 … +5.0) | +10.0 (+10.0 … +10.0) |"
    )
    # Cross-entropy loses 20 points, MoCo 10, LOOK 25 and SupCon 30.
    lines = imbalance.robustness_markdown(of).splitlines()[2:]
    assert [line.split(" | ")[1:3] for line in lines] == [
        ["2", "−10.0 (−10.0 … −10.0)"],
        ["2", "+5.0 (+5.0 … +5.0)"],
        ["2", "−15.0 (−15.0 … −15.0)"],
        ["2", "−5.0 (−5.0 … −5.0)"],
    ]
    assert "| LOOK: `rw_sam.rho` | 0.03 |" in imbalance.tuning_markdown(of)


def test_each_source_alone_is_trained_on_its_part_of_the_mixture(monkeypatch):
    class Mixture(str):
        alone = str  # stands for one source

    trained = types.SimpleNamespace(features=lambda images: images)
    seen = []

    def run(config, *, quiet, dataset):
        seen.append((config.other_sources, dataset))
        return trained

    images, labels = np.eye(10, dtype=np.float32)[np.arange(60) % 10], np.arange(60) % 10
    monkeypatch.setattr(pretrain, "run", run)
    monkeypatch.setattr(sources_study, "mixture", lambda: (Mixture("both"), "identity"))
    tasks = {name: (images, labels, images, labels) for name in sources_study.TASKS}
    tasks["digits"] = images, labels, images, (labels + 1) % 10  # none is right
    monkeypatch.setattr(sources_study, "tasks", lambda: tasks)
    found = {arm: sources_study.run(("look", arm, 3)) for arm in sources_study.ARMS}
    assert seen == [
        ("ignored", "digits"),
        ("ignored", "fashion_mnist"),
        ("ignored", "both"),
        ("negatives", "both"),
    ]
    for arm, record in found.items():
        values = record["values"]
        assert (values["digits"], values["fashion_mnist"], values["mean"]) == (0, 1, 0.5)
        assert record["seed"] == record["config"]["seed"] == 3 and record["arm"] == arm
    assert len({record["key"] for record in found.values()}) == 4
    older = json.loads(json.dumps(list(found.values()), default=list))
    del older[0]["config"]["data"]["wrong_labels"]  # a field that a later version added
    left = sources_study.left(older)
    assert len(left) == 2 * 4 * 5 - 4 and ("look", "ignored", 3) not in left


def few_labels(runs, accuracies):
    """Adds records of fine-tunings with these accuracies to the study of few labels."""
    for run, accuracy in zip(runs, accuracies, strict=True):
        correct = {"sizes": [100] * 3, "correct": [[round(100 * accuracy)] * 3]}
        values = {"accuracy": accuracy, "cpu_seconds": 1.0}
        record = run._asdict() | {
            "key": run.key,
            "values": values,
            "correct": {"accuracy": correct},
        }
        records.append(unlabelled.RECORDS, record)
    return unlabelled.Study()


def test_few_labels_are_tested_with_the_best_of_trials_and_of_two_more(tmp_path, monkeypatch):
    monkeypatch.setattr(unlabelled, "RECORDS", tmp_path / "records.jsonl")
    of = unlabelled.Study()
    for arm, best in ("plain", 2), ("both", 4):
        first = of.tuning("glyphs", arm)
        of = few_labels(first, [0.5 + 0.1 * (i == best) for i in range(6)])
        more = of.tuning("glyphs", arm)[6:]
        rate = first[best].fields["rate"]
        assert [run.fields["rate"] for run in more] == pytest.approx([rate / 2, 2 * rate], rel=0.06)
        assert [r.fields | {"rate": 0} for r in more] == [first[best].fields | {"rate": 0}] * 2
        assert of.chosen("glyphs", arm) is None and of.tests("glyphs", 25, arm) == []
        of = few_labels(more, [0.55, 0.7])
        assert of.chosen("glyphs", arm)["rate"] == more[1].fields["rate"]
    tests = {arm: of.tests("glyphs", 25, arm) for arm in ("plain", "longer", "both")}
    for runs in tests.values():
        assert [(r.seed, r.part, r.fields["data.shots"]) for r in runs] == [
            (seed, "test", 25) for seed in range(5)
        ]
    plain, longer = (tests[arm][0].fields for arm in ("plain", "longer"))
    assert longer == plain | {"duration": "300 steps"} and plain["duration"] == "150 steps"
    both = tests["both"][0].fields
    assert both["head.name"] == "covariance" and 0.02 <= both["minimax_entropy"] <= 0.5
    left = of.left(["glyphs"])
    assert sum(run.part == "test" for run in left) == 2 * 3 * 5
    of = few_labels(tests["plain"], [0.8] * 5)
    of = few_labels(tests["both"], [0.9] * 5)
    (cell,) = unlabelled.planned(of).items()
    assert cell[0] == ("glyphs", 25) and cell[1][0].mean == pytest.approx(0.1)
    assert len(of.left(["glyphs"])) == len(left) - 10


@pytest.mark.parametrize("minimax", [0.0, 0.1])
def test_few_labels_are_trained_on_with_the_others_unlabelled_and_scored_by_group(
    minimax, monkeypatch
):
    dataset = sources.load(digits.get_config().data)
    n = len(dataset.test.ids)
    # Only the first hundred are recognised.
    shown = (dataset.test.labels + (np.arange(n) >= 100)) % 10
    test = dataset.test._replace(images=shown.astype(np.uint8)[:, None, None, None])
    task = types.SimpleNamespace(
        config=types.SimpleNamespace(minimax_entropy=minimax, data=digits.get_config().data),
        dataset=dataset._replace(test=test),
        encoder=None,
        labelled=lambda seed: finetune.few(dataset, 5, seed),
        backbone=types.SimpleNamespace(checkpoint="c"),
    )
    given = []

    def train(task, *splits, rate, decay, seed):
        given.append((splits, rate, seed))
        return types.SimpleNamespace(params=None, batch_stats=None)

    def extract(encoder, params, stats, images, *, what):
        return np.eye(10)[images.ravel()]

    monkeypatch.setattr(unlabelled, "task_of", lambda *_: task)
    monkeypatch.setattr(finetune, "train", train)
    monkeypatch.setattr(unlabelled, "extract", extract)
    run = unlabelled.Run("fashion_mnist", "minimax", {"rate": 0.5}, 7, "test")
    record = unlabelled.measured(run)
    ((splits, rate, seed),) = given
    drawn = finetune.few(dataset, 5, 7).trainval
    np.testing.assert_array_equal(splits[0].ids, drawn.ids)
    assert len(splits) == 1 + bool(minimax) and (rate, seed) == (0.5, 7)
    if minimax:
        assert sorted([*splits[1].ids, *drawn.ids]) == dataset.trainval.ids.tolist()
    assert record["images"]["unlabelled"] == (len(dataset.trainval.ids) - 50) * bool(minimax)
    counts = record["correct"]["accuracy"]
    assert counts == {"sizes": [100] * 5 + [97], "correct": [[100] + [0] * 5]}
    assert record["values"]["accuracy"] == pytest.approx(100 / n)
    monkeypatch.setattr(finetune, "train", lambda *_, **__: None)  # diverged
    assert unlabelled.measured(run)["values"]["accuracy"] == 0


def test_tuning_with_few_labels_sees_no_image_of_the_test_part(monkeypatch):
    data = digits.get_config().data
    dataset = sources.load(data)
    monkeypatch.setattr(unlabelled, "dataset_of", lambda name: dataset)
    monkeypatch.setattr(unlabelled, "backbone", lambda data, part: part)
    monkeypatch.setattr(finetune, "Task", lambda config, backbone, found, _: (backbone, found))
    fields = json.dumps({"rate": 0.1, "data.shots": 5, "head.temperature": 0.2})
    for part, known, scored in (
        ("validation", dataset.train, dataset.validation),
        ("test", dataset.trainval, dataset.test),
    ):
        backbone, found = unlabelled.task_of.__wrapped__("fashion_mnist", part, fields)
        assert backbone == part and found.trainval is known and found.test is scored


def test_text_jobs_are_all_trials_and_then_the_seeds_of_the_chosen_ones():
    texts = object.__new__(text_study.Texts)
    texts.code, texts.identity = "code", "texts"
    first = text_study.missing(texts, [])
    assert len(first) == 24 and {job["part"] for job in first} == {"validation"}
    found = [
        job
        | {"key": records.key_of(job)}
        | {"values": {"package": float(job["settings"] == text_study.TRIALS[job["label"]][2])}}
        for job in first
    ]
    assert text_study.missing(texts, found[1:]) == first[:1]
    assert text_study.missing(texts, [r | {"code": "other"} for r in found]) == first
    then = text_study.missing(texts, found)
    assert len(then) == 1 + 10 * 5 and {job["part"] for job in then} == {"test"}
    for job in then:
        trials = text_study.TRIALS.get(job["label"])
        assert job["settings"] == (trials[2] if trials else {})


def test_text_is_measured_on_unseen_modules_only_in_the_test_part():
    texts = object.__new__(text_study.Texts)
    texts.code, texts.identity = "code", "texts"
    unseen = np.array([False, True, True, True])

    def measure(features, part):
        assert features == "features of LOOK" and part == texts.names[job["part"]]
        right = np.array([True, False, True])
        return {"package": right[:2], text_study.MODULE: right}

    texts.names = {
        **{"measure": measure, "unseen": unseen, "module_labels": np.array([9, 5, 4, 5])},
        **{"validation": [1], "test": [2, 3], "train": [4], "EXAMPLES": [0]},
        **{"fit": lambda name, seed, **settings: (None, f"features of {name}")},
        **{"shown": lambda i: i, "nearest": lambda features, row: [1, 2]},
    }
    job = texts.job("validation", "LOOK", 1000, {"k": 10})
    record = texts.measured(job)
    assert record["values"] == {"package": 0.5} and "correct" not in record
    job = texts.job("test", "LOOK", 0, {"k": 10})
    record = texts.measured(job)
    # The one text of module 4 is wrong, the two of module 5 are right.
    assert record["values"][text_study.MODULE] == pytest.approx(2 / 3)
    assert (record["correct"], record["sizes"]) == ([0, 2], [1, 2])
    assert record["neighbors"] == [[0, 1, 2]]
