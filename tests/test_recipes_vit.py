"""The recipes of ViT-S/16 run when made small."""

import pytest
from small_recipes import ran_two_steps, read

from jaxpt import methods


@pytest.mark.parametrize("method", methods.METHODS)
def test_vit_runs_when_made_small(method):
    ran_two_steps(read(f"pretrain/imagenet/{method}.py:vit_s16,smoke"))
