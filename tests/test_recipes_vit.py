"""The recipes of ViT-S/16 run when made small."""

import pytest
from small_recipes import ran_two_steps, read


# One of each kind of step, since a ViT's is slow to compile: RandAugment, a memory, a predictor,
# multi-crop.
@pytest.mark.parametrize("method", ["cross_entropy", "look", "moco_v3", "dino"])
def test_vit_runs_when_made_small(method):
    ran_two_steps(read(f"pretrain/imagenet/{method}.py:vit_s16,smoke"))
