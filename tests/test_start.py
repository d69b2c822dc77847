"""Pre-training that starts from a weight file."""

import functools
import json

import jax
import numpy as np
import pytest
import rounding
import weight_references as references
from safetensors.numpy import save_file

from jaxpt import backbones, models, pretrain
from jaxpt.configs.pretrain import digits
from jaxpt.data import sources
from jaxpt.errors import InputError

pytestmark = pytest.mark.usefixtures("unoptimised")


@pytest.fixture
def config(tmp_path, monkeypatch):
    """Two steps of LOOK at rate 0, from a ViT of 40-pixel images."""
    shapes = json.loads(references.FILE.read_text())["outputs"]["vit"]["shapes"]
    save_file(
        {name: references.drawn(name, shape) for name, shape in shapes.items()},
        tmp_path / "vit.safetensors",
    )
    monkeypatch.setitem(
        models.BACKBONES,
        "tiny",
        functools.partial(
            models.ViT, *(references.VIT[name] for name in ("width", "depth", "heads"))
        ),
    )
    c = digits.get_config("look,smoke")
    c.update(duration="1 steps", knn_every="0 steps", devices=1, memory=120)
    c.optimizer.learning_rate = 0.0
    c.model.update(name="tiny", weights=str(tmp_path / "vit.safetensors"))
    c.model.options.update(patch=8, image_size=8)
    return c


def test_a_run_starts_from_a_weight_file_with_its_normalisation(config, tmp_path, capsys):
    trained = pretrain.run(config, str(tmp_path / "run"), quiet=True)
    assert "pos_embed of shape [1, 26, 16] is resized to [1, 2, 16]" in capsys.readouterr().err
    start = backbones.open_backbone(config.model.weights, model=config.model)
    images = sources.load(config.data).test.images[:20]
    wanted = start.features(images)
    assert start.encoder.normalisation == "imagenet" and np.ptp(wanted) > 0.1
    np.testing.assert_allclose(trained.features(images), wanted, atol=1e-5)
    np.testing.assert_allclose(
        backbones.open_backbone(tmp_path / "run").features(images), wanted, atol=1e-5
    )
    jax.tree.map(  # the mean of two equal numbers is rounded, unless multiply-adds are fused
        functools.partial(np.testing.assert_allclose, rtol=rounding.of_sum(2)),
        trained.state.target.params["backbone"],
        start.params["backbone"],
    )
    (tmp_path / "vit.safetensors").unlink()  # a run that goes on needs it no more
    pretrain.run(config, str(tmp_path / "run"), quiet=True)


def test_a_file_that_does_not_fit_leaves_no_run_behind(config, tmp_path):
    config.model.options.pool = "mean"
    with pytest.raises(InputError, match="fc_norm.weight is missing.*cls_token is unexpected"):
        pretrain.run(config, str(tmp_path / "run"), quiet=True)
    assert not (tmp_path / "run").exists()


def test_positions_must_be_those_of_the_views(config):
    config.model.options.image_size = 40
    with pytest.raises(InputError, match="for images of 40 pixels, but views have 8: set"):
        pretrain.run(config, quiet=True)
    config.model.options.positions = "sincos"  # which fit any size
    pretrain.prepare(config, sources.load(config.data))
