"""What benchmarks count by themselves; what they time is not tested."""

import ast
import json
import pathlib
import sys

import numpy as np
import pytest

from jaxpt import records
from jaxpt.losses import look

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent / "benchmarks"))

import neighbor_reads  # noqa: E402
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
        return {"coarse_knn": -away, "fine_5shot": 0.0}

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
    assert "ties (within ± 1 point) with" in text
    assert transfer_study.contrasts_markdown(of).count("\n") == 4


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
