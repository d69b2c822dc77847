"""Long-tailed draws and sampling by class."""

import itertools

import ml_collections
import numpy as np
import pytest

from jaxpt.data import imbalance
from jaxpt.data.dataset import Split
from jaxpt.data.feed import batch_at
from jaxpt.errors import InputError

LABELS = np.repeat([0, 1, 3, 4], [50, 40, 60, 45])  # class 2 has no images


def drawn(long_tail, images=0, seed=0, labels=LABELS):
    """Positions of the images of a draw."""
    rows = np.random.default_rng(9).permutation(labels)
    split = Split(np.zeros((len(rows), 1, 1, 1), np.uint8), rows, np.arange(len(rows)))
    config = ml_collections.ConfigDict(
        {"long_tail": long_tail, "long_tail_images": images, "long_tail_seed": seed}
    )
    return imbalance.long_tailed(split, config)


def sizes(split):
    return sorted(np.unique(split.labels, return_counts=True)[1].tolist(), reverse=True)


class TestProfile:
    def test_exponential_sizes_fall_by_the_same_factor(self):
        np.testing.assert_allclose(imbalance.profile("exponential:8", 4), [1, 1 / 2, 1 / 4, 1 / 8])

    def test_pareto_sizes_fall_by_a_power_of_the_rank(self):
        np.testing.assert_allclose(imbalance.profile("pareto:16", 4), [1, 1 / 4, 1 / 9, 1 / 16])

    @pytest.mark.parametrize("name", imbalance.PROFILES)
    @pytest.mark.parametrize("ratio, classes", [(1, 5), (7, 2), (100, 62), (3, 1)])
    def test_the_largest_is_ratio_times_the_smallest(self, name, ratio, classes):
        shares = imbalance.profile(f"{name}:{ratio}", classes)
        assert shares[0] == 1 and np.all(np.diff(shares) <= 0)
        assert shares[-1] == pytest.approx(1 / ratio if classes > 1 else 1)


class TestDraw:
    def test_no_profile_keeps_all(self):
        np.testing.assert_array_equal(drawn("").ids, np.arange(len(LABELS)))

    def test_ratio_1_is_balanced_at_the_size_of_the_smallest_class(self):
        assert sizes(drawn("exponential:1")) == [40] * 4

    def test_the_profile_holds_and_uses_what_the_classes_allow(self):
        for seed in range(5):
            found = drawn("exponential:8", seed=seed)
            largest = sizes(found)[0]
            np.testing.assert_allclose(sizes(found), largest / np.array([1, 2, 4, 8]), atol=1)
            rank = imbalance.by_size(4, seed)
            labels = np.array([0, 1, 3, 4])[rank]
            assert sizes(found) == [np.sum(found.labels == label) for label in labels]
            room = min(np.sum(LABELS == y) * 2**r for r, y in enumerate(labels))
            assert abs(largest - room) <= 1

    def test_the_number_of_images_is_exact(self):
        for images, seed in itertools.product((40, 61, 80), range(4)):
            assert len(drawn("pareto:5", images, seed).ids) == images

    def test_the_seed_decides_which_images_of_a_class_are_drawn(self):
        one, other = (drawn("exponential:1", 20, seed, np.zeros(50, int)).ids for seed in (0, 1))
        assert len(one) == len(other) == 20 and set(one) != set(other)

    @pytest.mark.parametrize("seed", range(3))
    def test_thirds_are_class_numbers_by_rank(self, seed):
        rank = np.array([0, 1, 3, 4])[imbalance.by_size(4, seed)]
        thirds = imbalance.thirds(LABELS[::-1], seed)
        assert {name: classes.tolist() for name, classes in thirds.items()} == {
            "many": rank[:2].tolist(),
            "medium": rank[2:3].tolist(),
            "few": rank[3:].tolist(),
        }

    def test_draws_are_nested_and_depend_on_their_seed_alone(self):
        small, large = drawn("exponential:8", 45), drawn("exponential:8", 75)
        assert set(small.ids) < set(large.ids)
        assert np.all(np.diff(large.ids) > 0)
        even = drawn("exponential:1", 100)
        rarest = imbalance.by_size(4, 0)[-1]
        rare = [0, 1, 3, 4][rarest]
        assert set(large.ids[large.labels == rare]) < set(even.ids[even.labels == rare])
        assert not np.array_equal(small.ids, drawn("exponential:8", 45, seed=1).ids)

    @pytest.mark.parametrize(
        "long_tail, images, words",
        [
            ("linear:10", 0, "data.long_tail must be empty or PROFILE:RATIO"),
            ("exponential", 0, "such as exponential:100, got 'exponential'"),
            ("pareto:0.5", 0, "a ratio of at least 1"),
            ("pareto:inf", 0, "got 'pareto:inf'"),
            ("exponential:1000", 0, "of the rarest of 4 classes: lower the ratio"),
            ("exponential:10", 15, "raise data.long_tail_images"),
            ("exponential:2", 190, "set data.long_tail_images to at most"),
            ("exponential:2", -1, "must not be negative"),
            ("", 10, "data.long_tail_images 10 needs a profile"),
        ],
    )
    def test_what_is_not_possible_is_refused(self, long_tail, images, words):
        with pytest.raises(InputError, match=words.replace(":", ".")):
            drawn(long_tail, images)

    def test_the_largest_number_that_an_error_names_is_possible(self):
        with pytest.raises(InputError) as error:
            drawn("exponential:3", 190)
        most = int(str(error.value).split("at most ")[1].rstrip("."))
        assert len(drawn("exponential:3", most).ids) == most
        with pytest.raises(InputError):
            drawn("exponential:3", most + 2)


def test_whole_numbers_keep_their_sum_and_are_next_to_the_parts():
    rng = np.random.default_rng(0)
    for _ in range(50):
        parts = rng.exponential(3, size=rng.integers(1, 9))
        found = imbalance.whole(parts)
        assert np.all(np.abs(found - parts) < 1)
        assert abs(found.sum() - parts.sum()) <= 0.5 + 1e-6


COUNTS = np.array([24, 9, 0, 3])


def stream(name, length, seed=3, labels=np.repeat(np.arange(4), COUNTS)):
    labels = np.random.default_rng(1).permutation(labels)
    strata = imbalance.by_class(name, labels)
    return labels, *batch_at(0, length, n=len(labels), seed=seed, strata=strata)


class TestSampling:
    @pytest.mark.parametrize(
        "name, places", [("class_balanced", [12, 12, 0, 12]), ("square_root", [18, 12, 0, 6])]
    )
    def test_a_pass_has_the_places_of_each_class(self, name, places):
        labels, index, _ = stream(name, 36 * 3)
        for i in range(3):
            here = labels[index[36 * i : 36 * (i + 1)]]
            np.testing.assert_array_equal(np.bincount(here, minlength=4), places)

    @pytest.mark.parametrize("name", ["class_balanced", "square_root"])
    def test_examples_of_a_class_take_turns_and_epochs_count_them(self, name):
        labels, index, shown = stream(name, 36 * 14)  # whole passes
        for example in range(36):
            times = shown[index == example]
            assert sorted(times.tolist()) == list(range(len(times)))
        for label in (0, 1, 3):
            often = np.bincount(index, minlength=36)[labels == label]
            assert often.max() - often.min() <= 1

    def test_any_batch_is_a_slice_of_the_stream(self):
        labels, index, shown = stream("square_root", 200)
        strata = imbalance.by_class("square_root", labels)
        for position, size in ((0, 7), (30, 20), (36, 36), (113, 80)):
            here = batch_at(position, size, n=36, seed=3, strata=strata)
            for found, whole in zip(here, (index, shown)):
                assert found.dtype == np.int32
                np.testing.assert_array_equal(found, whole[position : position + size])

    def test_seeds_have_other_orders(self):
        assert not np.array_equal(stream("square_root", 36)[1], stream("square_root", 36, 4)[1])

    def test_instance_sampling_is_the_plain_stream(self):
        assert imbalance.by_class("instance", np.zeros(3, int)) is None

    def test_an_unknown_sampling_is_refused(self):
        with pytest.raises(InputError, match="data.sampling must be one of .*got 'inverse'"):
            imbalance.by_class("inverse", np.zeros(3, int))
