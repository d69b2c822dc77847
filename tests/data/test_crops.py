"""Random crops from whole pictures: where they lie, how they look, how they are distributed."""

import io
import math

import jax
import numpy as np
import pytest
from PIL import Image, ImageOps
from scipy.stats import ks_2samp
from sklearn.datasets import load_sample_images
from small_runs import RUN, config_of

from jaxpt import pretrain
from jaxpt.data import augment, crops, sources
from jaxpt.data.crops import Cropping, View, draw, random_box
from jaxpt.data.decode import INTERPOLATIONS, ORIENTATION, UPRIGHT, Framing, Reading
from jaxpt.data.feed import Batch, make_feed, rows_of_step
from jaxpt.errors import InputError
from jaxpt.train.parallel import Devices

RESAMPLERS = ["pillow", pytest.param("cykooz_resizer", marks=pytest.mark.extras)]
SQUARE = Framing(40, 32)


@pytest.fixture(params=RESAMPLERS)
def resampler(request):
    if request.param != "pillow":
        pytest.importorskip(request.param)
    return request.param


def photograph(kind: str) -> tuple[bytes, Image.Image]:
    """A file made from one of scikit-learn's photographs, and what a viewer shows."""
    image = Image.fromarray(load_sample_images().images[len(kind) % 2])
    form, options = "JPEG", {"quality": 92}
    if kind == "portrait":
        image = image.crop((100, 0, 400, 427))
    elif kind == "tiny":
        image = image.resize((31, 21), Image.Resampling.BICUBIC)
    elif kind == "huge":
        image = image.resize((4001, 2669), Image.Resampling.BICUBIC)
    elif kind == "grey":
        image = image.convert("L")
    elif kind == "cmyk":
        image = image.convert("CMYK")
    elif kind == "png":
        form, options = "PNG", {}
    elif kind.startswith("exif"):
        image = image.resize((1501, 1003), Image.Resampling.BICUBIC)
        exif = Image.Exif()
        exif[ORIENTATION] = int(kind[-1])
        options["exif"] = exif
    file = io.BytesIO()
    image.save(file, form, **options)
    shown = ImageOps.exif_transpose(Image.open(file))
    return file.getvalue(), shown.convert("RGB")


KINDS = ["landscape", "portrait", "tiny", "huge", "grey", "cmyk", "png"]
KINDS += [f"exif {i}" for i in range(1, 9)]


@pytest.mark.parametrize("kind", KINDS)
def test_crops_are_those_of_a_full_decode(kind, resampler):
    encoded, shown = photograph(kind)
    cubic = View((0.5, 1.0), 96, interpolation="bicubic")
    views = {0: View((0.08, 1.0), 224), 1: cubic, 7: View((1.0, 1.0), 32)}
    differences = {view: [] for view in views}
    for epoch in range(4):
        taken = Cropping(views, 5, resampler).read(
            encoded, kind, epoch=epoch, example=3, framing=SQUARE, channels=3
        )
        for view, (area, size, _, interpolation) in views.items():
            box = random_box(*shown.size, area, draw(5, view, epoch, 3))
            if area == (1, 1):
                box = SQUARE.box(*shown.size)
            expected = shown.resize((size, size), INTERPOLATIONS[interpolation], box)
            assert taken[view].shape == (size, size, 3)
            differences[view].append(np.abs(taken[view].astype(int) - np.asarray(expected)).mean())
    # A JPEG decoded at an eighth is a little sharper than Pillow's linear filter: up to 3 of 255.
    assert all(np.mean(x) < 2 and max(x) < 3 for x in differences.values()), differences


@pytest.mark.parametrize(
    "kind, value", [(3, b"\x63\0\0\0"), (2, b"abc\0"), (3, b"\0\0\0\0"), (12, b"\0\0\0\0")]
)
def test_an_orientation_that_is_none_turns_nothing(kind, value, resampler):
    image = Image.fromarray(load_sample_images().images[0]).resize((160, 90))
    number = (1 if kind != 2 else 4).to_bytes(4, "little")
    tag = b"\x12\x01" + kind.to_bytes(2, "little") + number + value
    exif = b"Exif\0\0II*\0\x08\0\0\0\x01\0" + tag + b"\0\0\0\0"
    found = []
    for options in {}, {"exif": exif}:
        file = io.BytesIO()
        image.save(file, "JPEG", **options)
        cropping = Cropping({0: View((0.2, 0.5), 32)}, 0, resampler)
        found.append(
            cropping.read(file.getvalue(), "x", epoch=0, example=0, framing=SQUARE, channels=3)[0]
        )
    np.testing.assert_array_equal(*found)


@pytest.mark.extras
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("size", [(61, 33), (640, 427), (2000, 1333)])
def test_simplejpeg_changes_no_bit(size, mode, monkeypatch):
    pytest.importorskip("simplejpeg")
    pytest.importorskip("cykooz_resizer")
    cubic = View((0.05, 0.25), 96, interpolation="bicubic")
    cropping = Cropping({0: View((0.3, 1.0), 224), 1: cubic}, 0, "cykooz_resizer")
    image = Image.fromarray(load_sample_images().images[0]).resize(size).convert(mode)
    decoded, decode = [], crops._jpeg_pixels
    monkeypatch.setattr(
        crops, "_jpeg_pixels", lambda *image: (decoded.append(decode(*image)), decoded[-1])[1]
    )
    for options in {}, {"subsampling": 0}, {"progressive": True, "quality": 30}:
        file = io.BytesIO()
        image.save(file, "JPEG", **options)

        def crops_of(epoch, encoded=file.getvalue()):
            return cropping.read(
                encoded, "x", epoch=epoch, example=0, framing=SQUARE, channels=1 + 2 * (mode != "L")
            )

        for epoch in range(3):
            with_it = crops_of(epoch)
            assert (decoded.pop() is None) == (mode == "CMYK")
            with monkeypatch.context() as without:
                without.setattr(crops, "_simplejpeg", lambda: None)
                jax.tree.map(np.testing.assert_array_equal, with_it, crops_of(epoch))
            assert decoded.pop() is None


@pytest.mark.parametrize("kind", ["png", *(f"exif {i}" for i in range(1, 9))])
def test_boxes_are_met_within_a_pixel(kind, resampler):
    """Pictures whose colours are the coordinates of the picture as it is shown."""
    width, height = 1203, 801
    shown = np.zeros((height, width, 3))
    shown[..., 0] = (np.arange(width) + 0.5) / width * 255
    shown[..., 1] = ((np.arange(height) + 0.5) / height * 255)[:, None]
    image, options = Image.fromarray(np.round(shown).astype(np.uint8)), {"quality": 100}
    if kind != "png":
        turn, exif = int(kind[-1]), Image.Exif()
        exif[ORIENTATION] = turn
        back = {6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}
        if turn > 1:
            image = image.transpose(back.get(turn, UPRIGHT[turn]))
        options["exif"] = exif
    file = io.BytesIO()
    image.save(file, "PNG" if kind == "png" else "JPEG", **options)
    size = 64
    for box in [(3, 5, 1203, 801), (801, 5, 1190, 402), (0, 333, 140, 401), (500.5, 2.25, 700, 90)]:
        (found,) = crops.read(
            file.getvalue(),
            kind,
            lambda w, h: [box],
            [View((1, 1), size)],
            SQUARE,
            resampler=resampler,
        )
        for axis, whole in enumerate((width, height)):
            low, high = box[axis], box[axis + 2]
            centres = low + (high - low) * (np.arange(size) + 0.5) / size
            line = found[..., axis].mean(axis) * whole / 255
            # A line through the colours, as a step of them is several pixels wide.
            fit = np.polyfit(centres[2:-2], line[2:-2], 1)
            np.testing.assert_allclose(np.polyval(fit, [low, high]), [low, high], rtol=0, atol=1)


@pytest.mark.parametrize(
    "box, size, scale",
    [
        ((0, 0, 2400, 1800), 224, 8),
        ((0, 0, 1791, 1791), 224, 4),
        ((0, 0, 2400, 895), 224, 2),
        ((7, 9, 455, 457), 224, 2),
        ((7, 9, 455, 456), 224, 1),
    ],
)
def test_a_jpeg_is_decoded_no_smaller_than_its_crops(box, size, scale, monkeypatch):
    file = io.BytesIO()
    Image.new("RGB", (2400, 1800)).save(file, "JPEG")
    sizes, resize = [], crops.RESAMPLERS["pillow"]
    monkeypatch.setitem(
        crops.RESAMPLERS,
        "pillow",
        lambda image, *rest: (sizes.append(image.size), resize(image, *rest))[1],
    )
    crops.read(file.getvalue(), "x", lambda w, h: [box], [View((1, 1), size)], SQUARE)
    assert sizes == [(2400 // scale, 1800 // scale)]
    # The smallest crop decides for all.
    views = [View((1, 1), size), View((1, 1), 20)]
    crops.read(file.getvalue(), "x", lambda w, h: [box, (0, 0, 20, 20)], views, SQUARE)
    assert sizes[1:] == [(2400, 1800)] * 2


def torchvision_box(rng, width, height, area):
    """``RandomResizedCrop.get_params``, written out."""
    log_ratio = np.log([3 / 4, 4 / 3])
    for _ in range(10):
        target = width * height * rng.uniform(*area)
        ratio = np.exp(rng.uniform(*log_ratio))
        w, h = int(round(math.sqrt(target * ratio))), int(round(math.sqrt(target / ratio)))
        if 0 < w <= width and 0 < h <= height:
            top, left = rng.integers(0, height - h + 1), rng.integers(0, width - w + 1)
            return left, top, left + w, top + h
    if width / height < 3 / 4:
        w, h = width, int(round(width / (3 / 4)))
    elif width / height > 4 / 3:
        w, h = int(round(height * (4 / 3))), height
    else:
        w, h = width, height
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h


@pytest.mark.parametrize(
    "width, height", [(500, 375), (375, 500), (224, 224), (900, 120), (40, 31)]
)
@pytest.mark.parametrize("area", [(0.08, 1.0), (0.05, 0.25)])
def test_boxes_are_distributed_as_torchvision_s(width, height, area):
    n, rng = 10_000, np.random.default_rng(1)
    own = np.array([random_box(width, height, area, draw(0, 1, 2, i)) for i in range(n)])
    theirs = np.array([torchvision_box(rng, width, height, area) for _ in range(n)])

    def statistics(boxes):
        left, top, right, bottom = boxes.T
        assert (left >= 0).all() and (top >= 0).all()
        assert (right <= width).all() and (bottom <= height).all()
        w, h = right - left, bottom - top
        return w * h / (width * height), w / h, left, top

    for a, b in zip(statistics(own), statistics(theirs)):
        assert ks_2samp(a, b).pvalue > 1e-3


def test_draws_differ_by_seed_view_epoch_and_example():
    base = draw(0, 0, 0, 0)
    for other in [(1, 0, 0, 0), (0, 1, 0, 0), (0, 0, 1, 0), (0, 0, 0, 1), (0, 0, -1, 0)]:
        assert not np.intersect1d(base, draw(*other)).size
    np.testing.assert_array_equal(base, draw(0, 0, 0, 0))


def test_what_is_not_0_to_255_is_brightened_before_it_is_resized():
    file = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 2, (40, 40), np.uint8)
    Image.fromarray(pixels).save(file, "PNG")
    (found,) = crops.read(
        file.getvalue(),
        "x",
        lambda w, h: [(0, 0, 40, 40)],
        [View((1, 1), 16)],
        SQUARE,
        channels=1,
        white=1,
    )
    expected = Image.fromarray(pixels * 255).resize((16, 16), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(found[..., 0], expected)


def config(**changes):
    data = {"data.source": "photographs", "data.image_size": 16, "data.limit": 20}
    views = {"augment.crop_area": (0.1, 0.9), "key_augment.crop_area": (0.5, 0.9)}
    local = {"local_views": 1, "local_augment.crop_size": 8}
    return config_of("look", RUN | data | {"batch_size": 8} | changes | views | local)


def test_a_feed_gives_the_crops_of_each_example_on_any_devices_from_any_step():
    cfg = config(**{"data.resampler": "pillow"})
    split = sources.load(cfg.data).trainval
    cfg, cropping = pretrain.choose_crops(cfg, split.images)
    assert cfg.data.crops == "whole" and {v: x.size for v, x in cropping.views.items()} == {
        0: 16,
        1000: 16,
        2000: 8,
    }

    def batches(devices, start=0):
        devices = Devices(limit=devices)
        feed = make_feed(cfg, split, split.labels, devices, cropping)
        rows = (rows_of_step(step, 8, n=feed.n, seed=0) for step in range(start, 4))
        gather = jax.jit(feed.gather)
        found = [jax.device_get(gather(feed.data, batch)) for batch in feed.batches(rows)]
        feed.close()
        return found

    expected = batches(1)
    for step, batch in enumerate(expected):
        rows = rows_of_step(step, 8, n=20, seed=0)  # the third batch ends a pass
        for place, (at, epoch) in enumerate(zip(rows.index, rows.epoch)):
            file = split.images.files[at]
            for view, (area, size, *_) in cropping.views.items():
                with Image.open(file) as image:
                    box = random_box(*image.size, area, draw(0, view, epoch, split.ids[at]))
                    crop = image.resize((size, size), Image.Resampling.BILINEAR, box)
                assert np.abs(batch.image[view][place].astype(int) - np.asarray(crop)).mean() < 3
    for devices, start in (8, 0), (2, 1), (1, 3):
        jax.tree.map(np.testing.assert_array_equal, expected[start:], batches(devices, start))


def test_the_device_does_the_rest_with_the_same_keys():
    """A picture that is as large as its view, without a crop: either way gives the same view."""
    images = np.random.default_rng(0).integers(0, 256, (3, 12, 12, 3), np.uint8)
    rows = np.arange(3, dtype=np.int32)
    settings = {"flip": True, "grey": 0.5, "noise": 0.1}
    batch = Batch(images, rows, rows, rows, rows, np.int32(4))
    for view in 0, 1000:
        np.testing.assert_array_equal(
            augment.draw_view(settings, batch, view=view),
            augment.draw_view(
                settings | {"crop_area": (0.1, 0.5), "crop_size": 5},
                batch._replace(image={view: images}),
                view=view,
            ),
        )


class TestChoice:
    @pytest.mark.parametrize(
        "changes, chosen",
        [
            ({}, "whole"),
            ({"data.crops": "square"}, "square"),
            ({"data.source": "digits"}, "square"),
        ],
    )
    def test_automatic(self, changes, chosen):
        cfg = config(**changes)
        settled, cropping = pretrain.choose_crops(cfg, sources.load(cfg.data).train.images)
        assert settled.data.crops == chosen and bool(cropping) == (chosen == "whole")
        assert (settled.data.resampler == "auto") == (chosen == "square")
        assert cfg.data.crops == changes.get("data.crops", "auto")

    def test_squares_where_nothing_is_cropped(self):
        cfg = config()
        for part in cfg.augment, cfg.key_augment, cfg.local_augment:
            part.crop_area = (1.0, 1.0)
        assert pretrain.choose_crops(cfg, sources.load(cfg.data).train.images)[1] is None

    @pytest.mark.parametrize(
        "changes, message",
        [
            ({"data.crops": "some"}, "data.crops must be one of auto, whole, square, got 'some'"),
            (
                {"data.crops": "whole", "data.source": "digits"},
                "whole needs encoded pictures, but digits is held as square arrays",
            ),
            (
                {"data.resampler": "opencv"},
                "data.resampler must be auto or one of pillow, .*'opencv'",
            ),
        ],
    )
    def test_bad_settings(self, changes, message):
        cfg = config(**changes)
        with pytest.raises(InputError, match=message):
            pretrain.choose_crops(cfg, sources.load(cfg.data).train.images)

    def test_whole_pictures_are_not_resident(self, tmp_path):
        cfg = config(**{"data.source": "folder", "data.path": str(tmp_path)})
        cfg.data.update(crops="whole", resident="yes")
        with pytest.raises(InputError, match="whole streams its pictures: set data.resident"):
            sources.load(cfg.data)

    def test_a_package_that_is_not_there(self, monkeypatch):
        monkeypatch.setattr(crops.importlib.util, "find_spec", lambda name: None)
        assert crops.choose_resampler("auto") == "pillow"
        with pytest.raises(InputError, match=r"not installed: pip install 'jaxpt\[pictures\]'"):
            crops.choose_resampler("cykooz_resizer")

    def test_a_resumed_run_keeps_what_was_chosen(self, tmp_path, monkeypatch):
        run = {"duration": "2 steps", "checkpoint_every": "1 steps", "knn_every": "0 steps"}
        cfg = config(**run, memory=16, **{"data.resampler": "pillow"})
        pretrain.run(cfg, str(tmp_path / "run"), quiet=True)
        cfg.data.resampler, cfg.data.crops = "auto", "auto"
        settled = pretrain.with_saved_crops(cfg, tmp_path / "run")
        assert (settled.data.crops, settled.data.resampler) == ("whole", "pillow")
        cfg.data.crops = "square"
        with pytest.raises(InputError, match=r"data.crops \(whole there, square here\)"):
            pretrain.run(cfg, str(tmp_path / "run"), quiet=True)


def test_a_window_lies_anywhere_in_the_picture():
    """BiT's crop: of the picture squeezed to 512 pixels, 480 at a random place."""
    view = View((1.0, 1.0), 480, 480 / 512)
    for draws, left_top in ((np.zeros(22), (0, 0)), (np.full(22, 0.5), (10, 5))):
        box = view.box(SQUARE, 320, 160, lambda draws=draws: draws)
        np.testing.assert_allclose(box, (*left_top, left_top[0] + 300, left_top[1] + 150))


def test_framing_of_a_config():
    cfg = config(**{"data.crop_pct": 0.875, "data.interpolation": "bilinear"})
    cfg.data.image_size = 224
    assert Framing.of(cfg.data) == Framing(256, 224, Reading(), "bilinear")
    assert Framing.of(config().data) == Framing(16, 16, Reading(), "bicubic")
    with pytest.raises(InputError, match="data.crop_pct must be 0 or .* 0.1 and 1, got 1.5"):
        Framing.of(config(**{"data.crop_pct": 1.5}).data)
    with pytest.raises(InputError, match="data.interpolation must be one of bicubic, .*'nearest'"):
        Framing.of(config(**{"data.interpolation": "nearest"}).data)
