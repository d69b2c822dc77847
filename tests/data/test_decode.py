import io
import logging

import numpy as np
import pytest
from PIL import Image

from jaxpt.data import decode
from jaxpt.data.decode import Framing, check_memory, reframe, squares, to_square
from jaxpt.errors import InputError


def png(pixels):
    file = io.BytesIO()
    Image.fromarray(np.asarray(pixels, np.uint8)).save(file, "png")
    return file.getvalue()


def halves(height, width):
    """Left half (of the longer side: first half) 40, the other 200."""
    pixels = np.full((height, width), 40, np.uint8)
    if width > height:
        pixels[:, width // 2 :] = 200
    else:
        pixels[height // 2 :] = 200
    return pixels


class TestToSquare:
    def test_shorter_side_scaled_then_centre_cut(self):
        # 64 × 16 → resize 8 makes 32 × 8, the crop of 8 is columns 12 … 19: the edge lies in it.
        found = np.asarray(to_square(Image.fromarray(halves(16, 64)), Framing(8, 8)))
        assert found.shape == (8, 8)
        np.testing.assert_allclose(found[:, :3], 40, atol=15)
        np.testing.assert_allclose(found[:, 5:], 200, atol=15)

    def test_crop_smaller_than_resize(self):
        rng = np.random.default_rng(0)
        image = Image.fromarray(rng.integers(0, 256, (10, 10), dtype=np.uint8))
        found = np.asarray(to_square(image, Framing(10, 4)))
        np.testing.assert_array_equal(found, np.asarray(image)[3:7, 3:7])

    @pytest.mark.parametrize("shape", [(37, 61, 3), (61, 37, 3), (40, 53, 3), (20, 90, 3)])
    @pytest.mark.parametrize("framing", [Framing(24, 17), Framing(50, 41), Framing(24, 24)])
    def test_is_the_centre_of_the_whole_image_resized(self, shape, framing):
        image = Image.fromarray(np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8))
        scale = framing.resize / min(image.size)
        whole = np.asarray(
            image.resize([round(side * scale) for side in image.size], Image.Resampling.BICUBIC),
            int,
        )
        top, left = ((side - framing.crop) // 2 for side in whole.shape[:2])
        expected = whole[top : top + framing.crop, left : left + framing.crop]
        np.testing.assert_allclose(to_square(image, framing), expected, atol=1)  # Pillow rounds

    def test_without_crop_the_whole_image_is_squeezed(self):
        found = np.asarray(to_square(Image.fromarray(halves(16, 64)), Framing(8, 0)))
        assert found.shape == (8, 8)
        np.testing.assert_allclose(found[:, :3], 40, atol=15)
        # A crop would show 200 from its middle on; squeezed, so does this, but the far end too.
        ramp = np.tile(np.arange(64, dtype=np.uint8) * 4, (16, 1))
        squeezed = np.asarray(to_square(Image.fromarray(ramp), Framing(8, 0)))
        cut = np.asarray(to_square(Image.fromarray(ramp), Framing(8, 8)))
        assert squeezed[0, 0] < 25 < 90 < cut[0, 0] and cut[0, -1] < 160 < 225 < squeezed[0, -1]

    def test_reduction_is_antialiased(self):
        # A chequerboard of single pixels becomes grey, not black or white.
        board = (np.indices((64, 64)).sum(0) % 2 * 255).astype(np.uint8)
        found = np.asarray(to_square(Image.fromarray(board), Framing.centre(8)))
        np.testing.assert_allclose(found[1:-1, 1:-1], 127.5, atol=3)

    def test_interpolation_is_bicubic(self):
        image = Image.fromarray(np.random.default_rng(1).integers(0, 256, (9, 9), dtype=np.uint8))
        np.testing.assert_array_equal(
            to_square(image, Framing.centre(15)), image.resize((15, 15), Image.Resampling.BICUBIC)
        )
        np.testing.assert_array_equal(
            to_square(image, Framing(12, 0)), image.resize((12, 12), Image.Resampling.BICUBIC)
        )

    def test_side(self):
        assert [Framing(256, 224).side, Framing(224, 0).side, Framing.centre(7).side] == [
            224,
            224,
            7,
        ]


class TestSquares:
    def test_from_files_and_bytes_in_order(self, tmp_path):
        rng = np.random.default_rng(0)
        pixels = rng.integers(0, 256, (3, 8, 8, 3), dtype=np.uint8)
        (tmp_path / "a.png").write_bytes(png(pixels[0]))
        found = squares(
            iter([(tmp_path / "a.png", "a"), (png(pixels[1]), "b"), (png(pixels[2]), "c")]),
            3,
            Framing.centre(8),
        )
        np.testing.assert_array_equal(found, pixels)

    def test_grey_becomes_three_channels_or_stays(self):
        grey = halves(8, 8)
        found = squares([(png(grey), "a")], 1, Framing.centre(8))
        np.testing.assert_array_equal(found, np.repeat(grey[None, ..., None], 3, -1))
        found = squares([(png(grey), "a")], 1, Framing.centre(8), channels=1)
        np.testing.assert_array_equal(found, grey[None, ..., None])

    def test_another_white_is_brightened_before_it_is_resized(self):
        ones = png(halves(8, 8) // 200)
        np.testing.assert_array_equal(
            squares([(ones, "a")], 1, Framing.centre(12), channels=1, white=1),
            squares([(png(halves(8, 8) // 200 * 255), "a")], 1, Framing.centre(12), channels=1),
        )

    @pytest.mark.parametrize("data", [b"", b"no image", png(halves(8, 8))[:40]])
    def test_what_cannot_be_read_is_named(self, data):
        with pytest.raises(InputError, match="example 7 cannot be read as an image"):
            squares([(data, "example 7")], 1, Framing.centre(8))

    def test_sixteen_bits(self):
        file = io.BytesIO()
        Image.fromarray(np.full((8, 8), 30_000, np.uint16)).save(file, "png")
        with pytest.raises(InputError, match="x has more than 8 bits"):
            squares([(file.getvalue(), "x")], 1, Framing.centre(8))

    def test_more_than_the_memory_is_refused_before_anything_is_read(self):
        def never():
            raise AssertionError("read")
            yield

        with pytest.raises(
            InputError,
            match=r"1,000,000,000 images of 224 × 224 × 3 take 140190\.1"
            r" GiB, but this machine has .* GiB.*image_size.*limit",
        ):
            squares(never(), 10**9, Framing.centre(224))

    def test_much_memory_is_said(self, caplog, monkeypatch):
        monkeypatch.setattr(decode, "LARGE", 10 * 8 * 8 * 3)
        with caplog.at_level(logging.WARNING):
            check_memory(9, 8, 3)
            assert not caplog.records
            check_memory(10, 8, 3)
        assert "10 images of 8 × 8 × 3 take 0.0 GiB" in caplog.text


@pytest.mark.parametrize("channels", [1, 3])
def test_reframe(channels):
    images = np.random.default_rng(0).integers(0, 256, (4, 8, 8, channels), dtype=np.uint8)
    np.testing.assert_array_equal(reframe(images, Framing.centre(8)), images)
    larger = reframe(images, Framing.centre(16))
    assert larger.shape == (4, 16, 16, channels) and larger.dtype == np.uint8
    one = Image.fromarray(images[2, ..., 0]).resize((16, 16), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(larger[2, ..., 0], one)
