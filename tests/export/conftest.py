"""What is exported here: a run of a small network, and a weight file of a ResNet-18."""

import jax
import numpy as np
import pytest
import weight_references as references
from safetensors.numpy import save_file

from jaxpt import models, pretrain, weights
from jaxpt.backbones import open_backbone
from jaxpt.configs.pretrain import digits

CLASSES = 3


@pytest.fixture(scope="session")
def run(tmp_path_factory):
    """The workdir of two steps of cross-entropy on digits."""
    workdir = tmp_path_factory.mktemp("export") / "run"
    config = digits.get_config("cross_entropy")
    config.update(duration="2 steps", knn_every="0 steps", devices=1, seed=3)
    config.data.limit = 300
    config.model.options = {"widths": (8, 16), "strides": (2, 1)}
    pretrain.run(config, str(workdir), quiet=True)
    return workdir


@pytest.fixture(scope="session")
def resnet18(tmp_path_factory):
    """A weight file in torchvision's names, drawn by name, with a classifier of three classes."""
    network = models.BACKBONES["resnet18"]()
    shapes = jax.eval_shape(
        lambda key: network.init(key, np.zeros((1, 32, 32, 3), np.float32), False),
        jax.random.key(0),
    )
    empty = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), shapes)
    head = {"Dense_0": {"kernel": np.zeros((512, CLASSES)), "bias": np.zeros(CLASSES)}}
    state = weights.export_state(network, empty["params"], empty["batch_stats"], head)
    path = tmp_path_factory.mktemp("weights") / "r18.safetensors"
    save_file({name: references.drawn(name, value.shape) for name, value in state.items()}, path)
    return path


@pytest.fixture
def opened(run):
    return open_backbone(run)
