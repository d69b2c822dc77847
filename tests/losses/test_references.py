"""The losses against other projects' own, by values recorded in reference_values.json."""

import json
import pathlib

import jax
import numpy as np
import pytest

from jaxpt import losses

pytestmark = pytest.mark.usefixtures("unoptimised")

RECORD = json.loads(pathlib.Path(__file__).with_name("reference_values.json").read_text())


def cases(loss, project=None):
    chosen = [
        case
        for case in RECORD["cases"]
        if case["loss"] == loss and project in (None, case["project"])
    ]
    assert chosen
    return pytest.mark.parametrize(
        "case", chosen, ids=[f"{case['project']}-{case['seed']}" for case in chosen]
    )


def draw(case):
    """The inputs, in the order in which they were drawn."""
    rng = np.random.default_rng(case["seed"])
    return [
        rng.integers(array["below"], size=array["shape"])
        if "below" in array
        else (rng.normal(size=array["shape"]) * array["scale"]).astype(np.float32)
        for array in case["draw"]
    ]


def both_views(features):
    """From [images, 2, dim] one row per view."""
    return np.concatenate([features[:, 0], features[:, 1]])


def run(case, *arrays, **options):
    return np.asarray(jax.jit(getattr(losses, case["loss"]))(*arrays, **options))


def assert_agrees(value, reference):
    np.testing.assert_allclose(value, reference, rtol=1e-5)


@cases("sup_con")
def test_sup_con(case):
    features, labels = draw(case)
    temperature, base = case["options"]["temperature"], case["options"]["base_temperature"]
    values = run(case, both_views(features), np.tile(labels, 2), temperature=temperature)
    # The reference scales by the ratio of its two temperatures.
    assert_agrees(temperature / base * values.mean(), case["value"])


@cases("nt_xent")
def test_nt_xent(case):
    (features,) = draw(case)
    values = run(
        case,
        both_views(features),
        np.tile(np.arange(len(features)), 2),
        temperature=case["options"]["temperature"],
    )
    assert_agrees(values.mean(), case["value"])


@cases("barlow_twins")
def test_barlow_twins(case):
    first, noise = draw(case)
    value = run(case, first, first + noise, redundancy=case["options"]["lambda"])
    assert_agrees(value, case["value"])


@cases("vicreg")
def test_vicreg(case):
    first, noise = draw(case)
    options = case["options"]
    value = run(
        case,
        first,
        first + noise,
        invariance=options["sim_coeff"],
        variance=options["std_coeff"],
        covariance=options["cov_coeff"],
    )
    assert_agrees(value, case["value"])


@cases("dino")
def test_dino(case):
    options = case["options"]
    values = run(
        case,
        *draw(case),
        student_temperature=options["student_temp"],
        teacher_temperature=options["teacher_temp"],
    )
    assert_agrees(values.mean(), case["value"])


@cases("move_centre")
def test_move_centre(case):
    _, teacher, centre = draw(case)
    value = run(case, centre, teacher, momentum=case["options"]["center_momentum"])
    assert_agrees(value, case["value"])


@cases("cosine_regression", "byol-pytorch")
def test_byol(case):
    assert_agrees(run(case, *draw(case)), case["value"])


@cases("cosine_regression", "lightly")
def test_simsiam(case):
    # The reference is the mean of −cos.
    assert_agrees(run(case, *draw(case)).mean(), 2 + 2 * case["value"])


def test_every_value_is_from_a_recorded_version_of_a_project():
    for case in RECORD["cases"]:
        assert len(RECORD["projects"][case["project"]]["commit"]) == 40
