"""What pre-training leaves in the memory."""

import jax
import numpy as np
import pytest
import small_runs
from small_runs import BATCH, IMAGES, STEPS

from jaxpt import pretrain
from jaxpt.data.feed import batch_at
from jaxpt.methods import encoding

pytestmark = pytest.mark.usefixtures("unoptimised", "exact_products")


@pytest.fixture(params=["look", "nca", "nn_clr"])
def remembering(request, train):
    return train(request.param)


class TestQueue:
    def expected_ids(self, config, dataset):
        """The example of every slot: what was written last where fill and steps wrap round."""
        filled, seen = (
            dataset.trainval.ids[batch_at(0, n, n=IMAGES, seed=0)[0]]
            for n in (min(config.memory, IMAGES) // BATCH * BATCH, STEPS * BATCH)
        )
        ids = np.full(config.memory, -1)
        for position, example in enumerate([*filled, *seen]):
            ids[position % config.memory] = example
        return ids

    def test_holds_the_last_keys_in_their_slots(self, remembering, dataset):
        ids = self.expected_ids(remembering.config, dataset)
        np.testing.assert_array_equal(remembering.state.memory.ids, ids)
        assert remembering.state.memory.valid.all()

    def test_labels_are_those_of_the_ids(self, remembering, dataset):
        label_of = dict(zip(dataset.trainval.ids, dataset.trainval.labels))
        ids = self.expected_ids(remembering.config, dataset)
        np.testing.assert_array_equal(remembering.state.memory.labels, [label_of[i] for i in ids])

    def test_keys_are_unit_vectors(self, remembering):
        lengths = np.linalg.norm(remembering.state.memory.keys, axis=1)
        np.testing.assert_allclose(lengths, 1, atol=1e-5)

    def test_was_filled_with_real_keys_before_the_first_update(self, train, dataset):
        look = train("look")
        filled = jax.tree.map(
            lambda x: np.asarray(x)[:IMAGES], look.state.memory._replace(cursor=np.zeros(IMAGES))
        )
        assert sorted(filled.ids) == sorted(dataset.trainval.ids)  # every example once
        # The same keys by hand, from the encoder as it was initialised, batch by batch as there.
        method, _ = pretrain.prepare(look.config, dataset)
        first = pretrain.init_state(method, look.config, dataset.trainval.images)
        target_keys = jax.jit(
            lambda target, batch: encoding.target_keys(method.encoder, target, batch, look.config)[
                0
            ]
        )
        for start in range(0, IMAGES, BATCH):
            rows = np.searchsorted(dataset.trainval.ids, filled.ids[start : start + BATCH])
            batch = small_runs.batch_of(dataset, rows, epoch=pretrain.FILL_EPOCH)
            np.testing.assert_allclose(
                filled.keys[start : start + BATCH], target_keys(first.target, batch), atol=1e-4
            )


class TestBank:
    def test_has_the_key_of_every_training_example_in_its_place(self, train, dataset):
        memory = train("look", memory_kind="bank").state.memory
        np.testing.assert_array_equal(memory.ids, dataset.trainval.ids)
        np.testing.assert_array_equal(memory.labels, dataset.coarse(dataset.trainval.labels))
        assert memory.valid.all()
        np.testing.assert_allclose(np.linalg.norm(memory.keys, axis=1), 1, atol=1e-5)

    def test_is_filled_to_the_last_example_before_the_first_update(self, train, dataset):
        # 300 examples are no multiple of the batch, and more than a queue would hold.
        memory = train("look", memory_kind="bank", batch_size=40, duration="1 steps").state.memory
        assert memory.valid.all()
        np.testing.assert_array_equal(memory.ids, dataset.trainval.ids)

    def test_without_momentum_it_is_a_queue_of_all_examples_for_one_pass(self, train):
        # The queue was filled in the order of the first pass: each batch drops its own old keys.
        options = {
            "duration": "1 epochs",
            "look.k_warmup": "0 steps",
            "memory": IMAGES,
            "knn_every": "0 steps",
        }
        queue = train("look", **options)
        bank = train("look", **options, memory_kind="bank", memory_momentum=0.0)
        assert len(bank.losses) == IMAGES // BATCH
        np.testing.assert_allclose(bank.losses, queue.losses, rtol=1e-4)
