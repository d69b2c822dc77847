import functools

import jax
import ml_collections
import numpy as np
import pytest
from PIL import Image

from jaxpt.data import augment, presets
from jaxpt.data.decode import INTERPOLATIONS
from jaxpt.data.feed import Batch
from jaxpt.errors import InputError
from jaxpt.train.parallel import Devices

pytestmark = pytest.mark.usefixtures("exact_products")

OFF = {
    "crop_area": (1.0, 1.0),
    "crop_size": 0,
    "shift": 0,
    "flip": False,
    "contrast": 0.0,
    "brightness": 0.0,
    "noise": 0.0,
    "erase": 0.0,
}  # what is not named here is off as well
EVERYTHING = {
    "crop_area": (0.3, 1.0),
    "crop_size": 6,
    "shift": 1,
    "flip": True,
    "contrast": 0.2,
    "brightness": 0.1,
    "noise": 0.05,
    "erase": 0.3,
    "rand_augment": 1,
    "jitter": (0.4, 0.4, 0.4, 0.1),
    "grey": 0.2,
    "blur": (0.5,),
    "solarise": (0.2,),
}
BICUBIC = {"crop_interpolation": "bicubic"}
HEIGHT, WIDTH = 7, 5  # not square, so that swapped axes show
MANY = 2400


@functools.cache
def compiled(settings):
    config = ml_collections.ConfigDict(dict(settings))
    # It runs once or twice: optimising it would take longer than running it.
    return jax.jit(
        lambda batch, view: augment.draw_view(config, batch, view=view),
        static_argnums=1,
        compiler_options={"xla_backend_optimization_level": 0},
    )


def draw(images, ids=None, *, epochs=0, seed=0, view=0, **settings):
    n = len(images)
    ids = np.arange(n) if ids is None else np.asarray(ids)
    batch = Batch(
        np.asarray(images),
        np.zeros(n, np.int32),
        ids.astype(np.int32),
        np.arange(n),
        np.broadcast_to(epochs, n).astype(np.int32),
        np.int32(seed),
    )
    return np.asarray(compiled(tuple(sorted((OFF | settings).items())))(batch, view))


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, (12, HEIGHT, WIDTH, 3), dtype=np.uint8)


def copies(image):
    """One image under many ids: what varies is the augmentation alone."""
    return np.broadcast_to(image, (MANY, *image.shape))


def as_pixels(views):
    """The uint8 images that views without changes of colour were made from."""
    pixels = (views + 1) * 127.5
    np.testing.assert_allclose(pixels, np.round(pixels), atol=1e-3)
    return np.round(pixels).astype(np.uint8)


def assert_uniform(counts, choices):
    """Counts of ``choices`` equally likely outcomes: all occur, and chi-square is unsuspicious."""
    expected = MANY / choices
    counts = np.asarray(counts)
    assert counts.shape == (choices,) and counts.sum() == MANY and counts.min() > 0
    chi_square = ((counts - expected) ** 2 / expected).sum()
    freedom = choices - 1
    assert chi_square < freedom + 4 * np.sqrt(2 * freedom), counts  # four standard deviations


class TestToFloat:
    def test_ends_and_middle(self):
        x = np.asarray(augment.to_float(np.array([0, 51, 204, 255], np.uint8)))
        assert x.dtype == np.float32
        np.testing.assert_allclose(x, [-1, -0.6, 0.6, 1], atol=1e-6)
        assert x[0] == -1 and x[-1] == 1

    def test_with_all_off_a_view_is_just_that(self, images):
        np.testing.assert_allclose(draw(images), images / 127.5 - 1, atol=1e-6)


class TestSameExampleSameView:
    # Only to rounding, for XLA may vectorise another batch size in another way.
    same = staticmethod(functools.partial(np.testing.assert_allclose, rtol=0, atol=1e-5))

    @pytest.fixture
    def reference(self, images):
        return draw(images, **EVERYTHING)

    def test_in_another_order(self, images, reference):
        order = np.random.default_rng(1).permutation(len(images))
        self.same(draw(images[order], order, **EVERYTHING), reference[order])

    def test_in_a_batch_of_another_size(self, images, reference):
        self.same(draw(images[[7, 2]], [7, 2], **EVERYTHING), reference[[7, 2]])

    def test_beside_other_examples_and_epochs(self, images, reference):
        epochs = np.arange(len(images))  # row 0 alone is of epoch 0
        mixed = draw(images, epochs=epochs, **EVERYTHING)
        self.same(mixed[0], reference[0])
        assert not np.allclose(mixed[1], reference[1], atol=0.01)

    @pytest.mark.parametrize(
        "other",
        [{"epochs": 1}, {"epochs": -1}, {"seed": 1}, {"view": 1}, {"ids": np.arange(12) + 100}],
    )
    def test_another_epoch_seed_view_or_id_gives_another_view(self, images, reference, other):
        changed = np.abs(draw(images, **EVERYTHING, **other) - reference).max(axis=(1, 2, 3))
        assert changed.min() > 0.01

    def test_epoch_and_id_are_not_interchangeable(self, images):
        pair = images[[0, 0]]
        a, b = draw(pair, [3, 5], epochs=[5, 3], **EVERYTHING)
        assert np.abs(a - b).max() > 0.01

    def test_views_of_an_example_are_independent(self, images):
        noise = [draw(copies(images[0]), view=v, noise=0.05)[:, 0, 0, 0] for v in (0, 1)]
        assert abs(np.corrcoef(*noise)[0, 1]) < 0.08  # four standard deviations


class TestOneByOne:
    """What a CPU does with larger images, beside a batch at once, as accelerators have it."""

    @pytest.mark.parametrize(
        "settings",
        [
            {
                "crop_area": (0.2, 1.0),
                "flip": True,
                "jitter": (0.4, 0.4, 0.4, 0.1),
                "grey": 0.3,
                "blur": (0.5,),
                "solarise": (0.5,),
            },
            {"crop_area": (0.05, 0.4), "crop_size": 5},
            {"crop_area": (0.9, 1.0), "crop_size": 4} | BICUBIC,
            {"rand_augment": 2},
        ],
    )
    @pytest.mark.parametrize("channels", [1, 3])
    def test_gives_the_same_views(self, settings, channels, monkeypatch):
        images = np.random.default_rng(0).integers(0, 256, (24, 16, 12, channels), dtype=np.uint8)
        monkeypatch.setattr(augment, "CPU_PIXELS", 16 * 12 + 1)
        at_once = draw(images, **settings)
        compiled.cache_clear()
        monkeypatch.setattr(augment, "CPU_PIXELS", 16 * 12)
        one_by_one = draw(images, **settings)
        compiled.cache_clear()
        np.testing.assert_allclose(one_by_one, at_once, atol=1e-5)

    def test_is_for_large_images_on_cpus(self, monkeypatch):
        assert augment._one_by_one((9, 32, 32, 3)) and not augment._one_by_one((9, 28, 28, 1))
        monkeypatch.setattr(augment.jax, "default_backend", lambda: "gpu")
        assert not augment._one_by_one((9, 224, 224, 3))


class TestShift:
    def test_is_one_of_the_translations_each_equally_often(self, images):
        image, pixels = images[0], 2
        padded = np.pad(image, [(pixels, pixels), (pixels, pixels), (0, 0)], mode="edge")
        places = range(2 * pixels + 1)
        translations = np.stack(
            [padded[top : top + HEIGHT, left : left + WIDTH] for top in places for left in places]
        )
        views = draw(copies(image), shift=pixels)
        equal = (as_pixels(views)[:, None] == translations[None]).all(axis=(2, 3, 4))
        assert (equal.sum(axis=1) == 1).all()  # none is anything else, and none is ambiguous
        assert_uniform(equal.sum(axis=0), (2 * pixels + 1) ** 2)

    def test_larger_than_the_image(self, images):
        views = draw(images, shift=2 * HEIGHT)
        assert views.shape == images.shape and np.abs(views).max() <= 1


class TestFlip:
    def test_mirrors_left_and_right_half_of_the_time(self, images):
        views = as_pixels(draw(copies(images[0]), flip=True))
        kept = (views == images[0]).all(axis=(1, 2, 3))
        mirrored = (views == images[0][:, ::-1]).all(axis=(1, 2, 3))
        assert (kept ^ mirrored).all()
        assert_uniform([kept.sum(), mirrored.sum()], 2)


class TestColour:
    """An image of black and white pixels shows the factor and the offset of every view."""

    def factors_and_offsets(self, **settings):
        image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
        image[0] = 255
        views = draw(copies(image), **settings)
        white, black = views[:, 0], views[:, 1:]
        assert np.ptp(white, axis=(1, 2)).max() == 0 == np.ptp(black, axis=(1, 2, 3)).max()
        return (white[:, 0, 0] - black[:, 0, 0, 0]) / 2, (white[:, 0, 0] + black[:, 0, 0, 0]) / 2

    @staticmethod
    def assert_uniform_between(values, low, high):
        assert low <= values.min() + 1e-5 and values.max() - 1e-5 <= high
        histogram, _ = np.histogram(values, 8, (low - 1e-5, high + 1e-5))
        assert_uniform(histogram, 8)

    def test_contrast_and_brightness(self):
        factors, offsets = self.factors_and_offsets(contrast=0.3, brightness=0.1)
        self.assert_uniform_between(factors, 0.7, 1.3)
        self.assert_uniform_between(offsets, -0.2, 0.2)  # a tenth of the range −1 … 1
        assert abs(np.corrcoef(factors, offsets)[0, 1]) < 0.08  # independent of each other

    def test_contrast_alone(self):
        factors, offsets = self.factors_and_offsets(contrast=0.3)
        assert factors.std() > 0.15
        np.testing.assert_allclose(offsets, 0, atol=1e-6)


class TestNoise:
    def test_is_normal_of_the_given_size_and_apart_in_every_value(self, images):
        noise = draw(copies(images[0]), noise=0.05) - augment.to_float(images[0])
        assert abs(noise.mean()) < 1e-3
        assert noise.std() == pytest.approx(0.1, rel=0.01)  # 0.05 of a range of 2
        inside = np.mean(np.abs(noise) < 0.1)
        assert inside == pytest.approx(0.6827, abs=0.005)  # a normal's share within one sd
        values = noise.reshape(MANY, -1)
        assert np.abs(np.corrcoef(values[:, 0], values[:, 1])[0, 1]) < 0.08


class TestErase:
    @pytest.mark.parametrize("share, side", [(0.6, 3), (0.01, 1)])
    def test_one_grey_square_anywhere_equally_often(self, share, side):
        white = np.full((HEIGHT, WIDTH, 3), 255, np.uint8)
        views = draw(copies(white), erase=share)
        erased = views == 0
        np.testing.assert_allclose(views[~erased], 1, atol=1e-6)
        assert (erased.all(axis=3) == erased.any(axis=3)).all()  # all channels together
        erased = erased[..., 0]
        rows, columns = HEIGHT - side + 1, WIDTH - side + 1
        squares = np.zeros((rows * columns, HEIGHT, WIDTH), bool)
        for i in range(rows):
            for j in range(columns):
                squares[i * columns + j, i : i + side, j : j + side] = True
        equal = (erased[:, None] == squares[None]).all(axis=(2, 3))
        assert (equal.sum(axis=1) == 1).all()
        assert_uniform(equal.sum(axis=0), rows * columns)


class TestCrop:
    """On a picture of its own coordinates, so that every crop says where it was taken."""

    SIDE = 24

    @pytest.fixture
    def coordinates(self):
        rows, columns = np.meshgrid(np.arange(self.SIDE), np.arange(self.SIDE), indexing="ij")
        return (np.stack([rows, columns, 0 * rows], axis=-1) * 10).astype(np.uint8)

    def crops(self, coordinates, **settings):
        views = (draw(copies(coordinates), **settings) + 1) * 127.5 / 10
        return views[..., 0], views[..., 1]

    def spans(self, coordinates, size, area):
        """Sides of the crops in pixels of the picture, from the slopes in their middle."""
        rows, columns = self.crops(coordinates, crop_area=area, crop_size=size)
        middle = slice(size // 4, size - size // 4)
        return (
            size * np.diff(rows[:, middle, size // 2], axis=1).mean(axis=1),
            size * np.diff(columns[:, size // 2, middle], axis=1).mean(axis=1),
        )

    def test_keeps_shares_of_the_area_and_sides_within_their_bounds(self, coordinates):
        heights, widths = self.spans(coordinates, 12, (0.2, 0.5))
        shares = heights * widths / self.SIDE**2
        assert 0.19 < shares.min() < 0.23 and 0.47 < shares.max() < 0.51
        assert abs(shares.mean() - 0.35) < 0.01
        ratios = widths / heights
        assert 0.73 < ratios.min() < 0.78 and 1.29 < ratios.max() < 1.37

    def test_lies_anywhere_inside(self, coordinates):
        rows, columns = self.crops(coordinates, crop_area=(0.25, 0.25), crop_size=8)
        for places in rows, columns:
            assert -0.1 < places.min() < 0.6 and self.SIDE - 1.6 < places.max() < self.SIDE - 0.9
            centres = places.mean(axis=(1, 2))
            assert abs(centres.mean() - (self.SIDE - 1) / 2) < 0.3 and centres.std() > 2

    @pytest.mark.parametrize(  # crops that are reduced, and enlarged
        "size, interpolation", [(9, "bilinear"), (20, "bilinear"), (12, "bicubic")]
    )
    def test_is_pils_resize_of_its_box(self, size, interpolation, coordinates):
        ids, area, large = np.arange(20), (0.2, 1.0), 64  # where coordinates are but enlarged
        rows, columns = (
            (draw(np.stack([coordinates] * 20), ids, crop_area=area, crop_size=large) + 1) * 12.75
        ).transpose(3, 0, 1, 2)[:2]
        # PIL clips the overshoot of bicubic interpolation twice, so there is none here.
        picture = np.random.default_rng(0).integers(80, 176, (self.SIDE, self.SIDE, 3), np.uint8)
        settings = {"crop_area": area, "crop_size": size, "crop_interpolation": interpolation}
        found = draw(np.stack([picture] * 20), ids, **settings)
        for i in ids:
            ends = np.array(
                [[line[16] + 0.5, line[48] + 0.5] for line in (columns[i, 32], rows[i, :, 32])]
            )
            sides = (ends[:, 1] - ends[:, 0]) * large / 32
            low = ends[:, 0] - sides * 16.5 / large
            box = np.clip([*low, *(low + sides)], 0, self.SIDE)
            expected = Image.fromarray(picture).resize(
                (size, size), INTERPOLATIONS[interpolation], tuple(box.tolist())
            )
            # PIL rounds to whole levels twice.
            np.testing.assert_allclose((found[i] + 1) * 127.5, expected, atol=1.5)

    def test_bicubic_overshoot_is_clipped(self):
        edge = np.repeat(np.array([0, 255], np.uint8), 12)[:, None, None]
        view = draw(copies(np.broadcast_to(edge, (24, 24, 3)))[:2], crop_size=17, **BICUBIC)
        assert view.min() == -1 and view.max() == 1

    def test_the_whole_image_at_its_size_is_the_image(self, images):
        np.testing.assert_allclose(draw(images), augment.to_float(images), atol=1e-6)

    def test_size_without_a_smaller_area_resizes(self, coordinates):
        view = draw(copies(coordinates)[:2], crop_size=12)
        assert view.shape == (2, 12, 12, 3)
        pairs = np.asarray(augment.to_float(coordinates)).reshape(12, 2, 12, 2, 3).mean(axis=(1, 3))
        np.testing.assert_allclose(view[0][2:-2, 2:-2], pairs[2:-2, 2:-2], atol=0.05)


class TestShares:
    """How many views an operation is done to, and to which."""

    GREEN = np.broadcast_to(np.array([0, 200, 0], np.uint8), (HEIGHT, WIDTH, 3))

    @staticmethod
    def share(views, image, atol=1e-5):
        changed = np.abs(views - np.asarray(augment.to_float(image))).max(axis=(1, 2, 3)) > atol
        return changed.mean()

    @pytest.mark.parametrize(
        "settings, expected",
        [
            ({"grey": 0.2}, 0.2),
            ({"jitter": (0.4, 0.4, 0.4, 0.1), "jitter_probability": 0.7}, 0.7),
            ({"solarise": (0.3,)}, 0.3),
            ({"rand_augment": 1}, None),
        ],
    )
    def test_is_the_probability(self, settings, expected):
        share = self.share(draw(copies(self.GREEN), **settings), self.GREEN)
        if expected is None:  # of 14, those that change a flat and saturated green
            assert 0.4 < share < 0.9
        else:
            assert abs(share - expected) < 4 * np.sqrt(expected * (1 - expected) / MANY)

    @pytest.mark.parametrize("name", ["blur", "solarise"])
    @pytest.mark.parametrize("view, expected", [(0, 1.0), (1, 0.1), (2, 0.1), (1000, 0.1)])
    def test_goes_by_the_view_and_the_last_is_for_all_further_ones(
        self, images, name, view, expected
    ):
        views = draw(copies(images[0]), view=view, blur_sigma=(0.5, 2.0), **{name: (1.0, 0.1)})
        share = self.share(views, images[0])
        assert abs(share - expected) <= 4 * np.sqrt(expected * (1 - expected) / MANY)

    def test_operations_are_drawn_independently(self):
        views = draw(copies(self.GREEN), grey=0.5, solarise=(0.5,))
        grey = np.ptp(views[:, 0, 0], axis=1) < 1e-5  # of luma 0.46, so that it is not turned round
        turned = views[~grey][:, 0, 0, 1] < 0  # bright green gets dark
        assert abs(grey.mean() - 0.5) < 0.05 and abs(turned.mean() - 0.5) < 0.06

    def test_one_channel_has_no_colours_to_lose(self, images):
        grey = images[..., :1]
        np.testing.assert_allclose(
            draw(grey, grey=1.0, jitter=(0.0, 0.0, 0.9, 0.5)), draw(grey), atol=1e-5
        )

    def test_further_operations_leave_the_draws_of_others_alone(self, images):
        plain = draw(images, shift=1, flip=True, crop_area=(0.3, 1.0))
        solarised = draw(images, shift=1, flip=True, crop_area=(0.3, 1.0), solarise=(1.0,))
        np.testing.assert_allclose(solarised, np.where(plain < 0, plain, -plain), atol=1e-5)


class TestDevices:
    def test_views_do_not_depend_on_the_number_of_devices(self):
        """To the bit, where each device has as many images as it would have alone."""
        config = ml_collections.ConfigDict(presets.PRESETS["byol"].views._asdict())
        images = np.random.default_rng(3).integers(0, 256, (16, 16, 16, 3), dtype=np.uint8)
        batch = Batch(
            images,
            np.zeros(16, np.int32),
            np.arange(16, dtype=np.int32) + 7,
            np.arange(16, dtype=np.int32),
            np.arange(16, dtype=np.int32) // 5,
            None,
        )

        def views(devices, part):
            rows = jax.tree.map(lambda x: x[part], batch)
            program = devices.map_rows(
                lambda seed, rows: augment.draw_view(config, rows._replace(seed=seed), view=1)
            )
            return np.asarray(program(devices.replicate(np.int32(4)), devices.split(rows)))

        eight = views(Devices(limit=8), slice(None))
        two = np.concatenate([views(Devices(limit=2), slice(i, i + 4)) for i in range(0, 16, 4)])
        np.testing.assert_array_equal(eight, two)
        one = views(Devices(limit=1), slice(None))
        np.testing.assert_allclose(eight, one, rtol=0, atol=1e-5)  # vectorised in another way


class TestCheck:
    def test_accepts_the_bounds(self):
        augment.check(ml_collections.ConfigDict(OFF))
        augment.check(ml_collections.ConfigDict(EVERYTHING))

    @pytest.mark.parametrize("value", [-1, 5000])
    @pytest.mark.parametrize(
        "name", ["shift", "crop_size", "contrast", "brightness", "noise", "erase"]
    )
    def test_outside_of_its_range(self, name, value):
        with pytest.raises(InputError, match=rf"augment\.{name} must lie between 0 and .*{value}"):
            augment.check(ml_collections.ConfigDict(OFF | {name: value}))

    @pytest.mark.parametrize("area", [(0.0, 1.0), (0.5, 0.4), (0.5, 1.1), (0.5,)])
    def test_a_crop_that_is_none(self, area):
        with pytest.raises(InputError, match=r"augment\.crop_area must be two shares"):
            augment.check(ml_collections.ConfigDict(OFF | {"crop_area": area}))

    def test_an_unknown_interpolation(self):
        with pytest.raises(InputError, match=r"crop_interpolation must be bilinear or .*'cubic'"):
            augment.check(ml_collections.ConfigDict(OFF | {"crop_interpolation": "cubic"}))

    def test_erasing_everything(self):
        with pytest.raises(InputError, match=r"augment\.erase must be below 1, got 1\.0"):
            augment.check(ml_collections.ConfigDict(OFF | {"erase": 1.0}))
