"""The encoder as StableHLO, and the lines of the card by which others load it."""

import json
import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest
from jax import export as jax_export

from jaxpt import export
from jaxpt.export import serving

# Runs lines of a card where jaxpt cannot be imported.
ALONE = """
import json, sys
sys.modules["jaxpt"] = None
import numpy as np
images = np.load("images.npy")
{lines}
print(json.dumps(np.asarray({what}).tolist()))
"""


@pytest.fixture
def images():
    return np.random.default_rng(0).integers(0, 256, (5, 8, 8, 1), np.uint8)


@pytest.mark.parametrize("count", [1, 5])
def test_any_number_of_images_has_the_encoders_features(count, opened, images):
    content = serving.dump(opened, (8, 8, 1))
    read = jax_export.deserialize(bytearray(content))
    assert set(read.platforms) == {"cpu", "cuda", "tpu"}
    features = read.call(images[:count])
    assert features.dtype == np.float32
    np.testing.assert_allclose(features, opened.features(images[:count]), rtol=0, atol=1e-6)


def test_the_lines_of_the_card_need_jax_alone(run, opened, images, tmp_path):
    made = export.run(
        run, tmp_path / "FOLDER", formats=("safetensors", "stablehlo"), classifier=True
    )
    card = (made.folder / "README.md").read_text()
    (lines,) = [
        code
        for code in re.findall("```python\n(.*?)```", card, re.DOTALL)
        if "encoder.stablehlo" in code
    ]
    assert len([line for line in lines.splitlines() if line]) == 3
    np.save(tmp_path / "images.npy", images)
    result = subprocess.run(
        [sys.executable, "-c", ALONE.format(lines=lines, what="logits")],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    dense = opened.classifier["Dense_0"]
    wanted = opened.features(images) @ dense["kernel"] + dense["bias"]
    assert np.abs(wanted).max() > 1e-4
    np.testing.assert_allclose(json.loads(result.stdout), wanted, rtol=0, atol=1e-5)


def test_the_encoder_alone(run, tmp_path):
    made = export.run(run, tmp_path / "out", formats=("stablehlo",), image_size=16)
    assert sorted(path.name for path in pathlib.Path(made.folder).iterdir()) == [
        "README.md",
        "encoder.stablehlo",
    ]
    read = jax_export.deserialize(bytearray((made.folder / "encoder.stablehlo").read_bytes()))
    assert read.in_avals[0].shape[1:] == (16, 16, 1)
    assert "open_backbone" not in (made.folder / "README.md").read_text()
