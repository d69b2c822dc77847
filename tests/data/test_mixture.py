"""Several sources as one set: labels, ids, images, weights, identity, and what is refused."""

import ml_collections
import numpy as np
import pytest
from jaxpt.configs.pretrain import defaults
from jaxpt.cli import config_files
from jaxpt.cost import plan
from jaxpt.data import identity, imbalance, mixture, sources
from jaxpt.data.feed import Strata, batch_at
from jaxpt.data.pictures import Pictures
from jaxpt.errors import InputError

N = 40


@pytest.fixture
def arrays(tmp_path):
    """Two .npz files: grey squares of 8 pixels in 4 classes, and coloured ones of 12 in 3."""
    rng = np.random.default_rng(0)
    for name, side, channels, classes in ("grey", 8, 1, 4), ("colour", 12, 3, 3):
        parts = {}
        for part, n in ("train", N), ("test", 10):
            parts[f"{part}_images"] = rng.integers(
                256, size=(n, side, side, channels), dtype=np.uint8
            )
            parts[f"{part}_labels"] = np.arange(n) % classes
        names = np.arange(4) if name == "grey" else ["c0", "c1", "c2"]
        np.savez(tmp_path / f"{name}.npz", class_names=names, **parts)
    return tmp_path


def data_of(folder, **fields):
    data = defaults.get_config().data
    data.image_size = 12
    own = {"source": "npz"}
    data.sources = {
        "grey": own | {"path": str(folder / "grey.npz"), "label_map": "parity"},
        "colour": own | {"path": str(folder / "colour.npz")},
    }
    for name, value in fields.items():
        data.sources[name.partition("__")[0]][name.partition("__")[2]] = value
    return data


def test_classes_ids_and_images_go_on_from_source_to_source(arrays):
    dataset = sources.load(data_of(arrays))
    assert dataset.name == "colour + grey" and dataset.sources.names == ("colour", "grey")
    assert dataset.class_names == tuple(
        "colour/c0 colour/c1 colour/c2 grey/0 grey/1 grey/2 grey/3".split()
    )
    assert dataset.coarse.names == ("colour/c0", "colour/c1", "colour/c2", "grey/even", "grey/odd")
    assert dataset.coarse.coarse_of == (0, 1, 2, 3, 4, 3, 4)
    assert mixture.label_sources(dataset).tolist() == [0, 0, 0, 1, 1]
    whole = dataset.trainval
    assert whole.images.shape == (2 * N, 12, 12, 3) and sorted(whole.ids) == list(range(2 * N))
    assert sorted([*dataset.train.ids, *dataset.validation.ids]) == list(range(2 * N))
    for name, one in dataset.by_source(whole).items():
        (own,) = (sources.load(c) for n, c in mixture.configs(data_of(arrays)).items() if n == name)
        alone = dataset.alone(name)
        assert alone.class_names == own.class_names and alone.coarse == own.coarse
        for part in "train", "validation", "trainval", "test":
            np.testing.assert_array_equal(getattr(alone, part).labels, getattr(own, part).labels)
        if name == "colour":
            np.testing.assert_array_equal(one.images, own.trainval.images)
        else:  # three equal channels
            assert (one.images == one.images[..., :1]).all()


def test_coarse_classes_of_the_first_source_do_not_shift_those_of_the_next(arrays):
    data = data_of(arrays)
    data.sources = {"a": data.sources.grey, "b": data.sources.colour}
    for source, weight in ("a", 3.0), ("b", 1.0):
        data.sources[source].weight = weight
    dataset = sources.load(data)
    assert dataset.coarse.names == ("a/even", "a/odd", "b/c0", "b/c1", "b/c2")
    assert dataset.coarse.coarse_of == (0, 1, 0, 1, 2, 3, 4)
    assert mixture.label_sources(dataset).tolist() == [0, 0, 1, 1, 1]
    for split in dataset.trainval, dataset.test:
        n = len(split.ids) // 2
        fine = np.concatenate([np.arange(n) % 4, 4 + np.arange(n) % 3])
        np.testing.assert_array_equal(split.labels, fine)
    assert mixture.shares(dataset, dataset.trainval) == (0.75, 0.25)
    assert mixture.about(dataset, dataset.trainval) == (
        "Images: 40 of a (75% of a pass), 40 of b (25% of a pass)."
    )


def test_one_source_is_that_source(arrays):
    data = data_of(arrays)
    del data.sources["grey"]
    plain = defaults.get_config().data
    plain.source, plain.path, plain.image_size = "npz", str(arrays / "colour.npz"), 12
    one, other = sources.load(data), sources.load(plain)
    assert one.sources is None and one._replace(**dict.fromkeys(SPLITS)) == other._replace(
        **dict.fromkeys(SPLITS)
    )
    for part in SPLITS:
        for x, y in zip(getattr(one, part), getattr(other, part)):
            np.testing.assert_array_equal(x, y)
    assert sources.identify(data) == sources.identify(plain)


SPLITS = ("train", "validation", "trainval", "test")


def test_streamed_pictures_are_mixed_with_arrays(arrays):
    data = data_of(arrays)
    whole = np.asarray(sources.load(data).trainval.images)
    loaded = {name: sources.load(one) for name, one in mixture.configs(data).items()}
    colour = loaded["colour"]
    framing = sources.Framing.centre(12)
    places = np.empty(N, object)
    for i, image in enumerate(colour.trainval.images):
        places[i] = image
    pictures = Pictures(places, framing, 3, lambda image: (image, "one"))
    loaded["colour"] = colour._replace(
        trainval=colour.trainval._replace(images=pictures),
        test=colour.test._replace(images=pictures[:10]),
    )
    mixed = mixture.join(loaded, data)
    assert (
        isinstance(mixed.trainval.images, Pictures)
        and len(set(mixed.trainval.images.digests())) > N
    )
    np.testing.assert_array_equal(np.asarray(mixed.trainval.images), whole)


@pytest.mark.parametrize("weights", [(1, 1), (3, 1), (1, 30)])
def test_a_pass_holds_each_sources_quota(weights):
    members = np.arange(30), np.arange(30, 100)
    strata = Strata.by_weight(members, weights)
    assert sum(strata.quotas) == 100
    assert abs(strata.quotas[0] - 100 * weights[0] / sum(weights)) <= 0.5
    index, epoch = batch_at(0, 500, n=100, seed=3, strata=strata)
    for number in range(5):
        here = index[100 * number : 100 * (number + 1)]
        assert np.sum(here < 30) == strata.quotas[0]
    for some in members:  # equally often, and never twice in an epoch of its own
        seen = [np.sort(epoch[index == i]) for i in some]
        assert max(map(len, seen)) - min(map(len, seen)) <= 1
        assert all((times == np.arange(len(times))).all() for times in seen)
    part = batch_at(37, 90, n=100, seed=3, strata=strata)  # a batch is a slice of the stream
    np.testing.assert_array_equal(part, (index[37:127], epoch[37:127]))
    assert (batch_at(0, 500, n=100, seed=4, strata=strata)[0] != index).any()


def test_a_pass_is_shuffled_anew_and_each_stratum_on_its_own():
    strata = Strata.by_weight((np.arange(30), np.arange(30, 60)), (1, 1))
    first, second = (batch_at(start, 60, n=60, seed=0, strata=strata)[0] for start in (0, 60))
    assert 5 < np.sum(first[:30] < 30) < 25  # not one stratum after the other
    assert np.any((first < 30) != (second < 30))
    assert np.any(first[first < 30] != second[second < 30])
    three = Strata.by_weight(np.split(np.arange(120), [30, 60]), (1, 1, 4))  # quotas 20, 20, 80
    index, _ = batch_at(0, 120, n=120, seed=0, strata=three)
    assert set(index[index < 30] + 30) != set(index[(30 <= index) & (index < 60)])


def test_the_identity_names_the_source_that_changed(arrays):
    data = data_of(arrays)
    before = sources.identify(data)
    assert identity.Identity.from_json(before.to_json()) == before
    (arrays / "moved").mkdir()
    (arrays / "grey.npz").rename(arrays / "moved" / "grey.npz")
    data.sources.grey.path = str(arrays / "moved" / "grey.npz")
    assert sources.identify(data) == before  # by content
    assert identity.of_dataset(sources.load(data)).classes == before.classes
    data.sources.grey.limit = N - 3
    found = identity.differences(before, sources.identify(data))
    assert list(found) == ["grey: training"]
    assert (
        "grey: training has" in found["grey: training"][0]
        and "'grey/" in found["grey: training"][0]
    )
    assert identity.is_test("grey: test") and identity.is_test("test") and not identity.is_test("x")


def test_a_source_is_set_by_flags(arrays):
    flags = [
        "--config.data.sources.digits.label_map=halves",
        "--config.data.sources.clothes.source=npz",
        f"--config.data.sources.clothes.path={arrays / 'colour.npz'}",
        "--config.data.sources.clothes.weight=2",
    ]
    config = config_files.read("pretrain", "pretrain/digits.py:look", flags)
    found = mixture.configs(config.data)
    assert found["digits"].source == "digits" and found["digits"].label_map == "halves"
    assert found["clothes"].path.endswith("colour.npz") and "weight" not in found["clothes"]
    with pytest.raises(InputError, match="data.sources has weights of some sources only"):
        mixture.weights(config.data)


def test_a_plan_counts_all_sources():
    config = defaults.get_config()
    config.data.sources = {"digits": {}, "fashion_mnist": {"label_map": "fashion5", "limit": 500}}
    assert plan.sizes_of(config) == (1200 + 500, 15, 32, 1)
    assert plan.sizes_of(config, images=100, classes=7) == (100, 7, 32, 1)


@pytest.mark.parametrize(
    "fields, text",
    [
        ({"grey__weight": 0}, "data.sources.grey.weight must be a number above 0, got 0"),
        ({"grey__weight": "2"}, "data.sources.grey.weight must be a number above 0, got '2'"),
        ({"grey__crops": "whole"}, "data.sources.grey has no field 'crops': it may have weight"),
        ({"grey__limit": 0.5}, "data.sources.grey.limit must be of type int, got 0.5"),
        ({"grey__weight": 1.0}, r"weights of some sources only, \[None, 1.0\]: give one to each"),
        ({"grey__source": "no"}, "data.source must be one of"),
    ],
)
def test_fields_that_are_refused(arrays, fields, text):
    data = data_of(arrays)
    data.sources.grey.label_map = "fine"
    for name, value in fields.items():
        source, _, field = name.partition("__")
        with data.sources[source].ignore_type():
            data.sources[source][field] = value
    with pytest.raises(InputError, match=text):
        sources.load(data)


@pytest.mark.parametrize("name, own", [("a b", {}), ("digits", 3)])
def test_names_and_sections_that_are_refused(name, own):
    data = defaults.get_config().data
    data.sources = ml_collections.ConfigDict({name: own})
    with pytest.raises(InputError, match=f"data.sources.{name} must be a name of letters"):
        sources.load(data)


def test_a_source_without_images_is_refused(arrays):
    data = data_of(arrays)
    data.sources.grey.label_map = "fine"
    dataset = sources.load(data)
    few = dataset.trainval.take(slice(N))  # of colour alone
    with pytest.raises(InputError, match="data.sources.grey has no image among the 40"):
        mixture.shares(dataset, few)


def test_a_weight_that_draws_nothing_is_refused(arrays):
    dataset = sources.load(data_of(arrays, grey__weight=1e-3, colour__weight=1.0))
    with pytest.raises(InputError, match="data.sources.grey.weight is so small that none of its"):
        mixture.shares(dataset, dataset.trainval)


def test_weights_of_sources_and_sampling_of_classes_exclude_each_other(arrays):
    dataset = sources.load(data_of(arrays, grey__weight=1.0, colour__weight=1.0))
    by_class = imbalance.by_class("class_balanced", dataset.trainval.labels)
    with pytest.raises(InputError, match="set data.sampling to instance, or leave out the weights"):
        mixture.strata(dataset, dataset.trainval, by_class)
