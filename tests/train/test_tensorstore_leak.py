"""What tensorstore does not free: a save has it made once, and not for every array."""

import gc
import sys

import jax.numpy as jnp
import pytest
import tensorstore

from jaxpt.train import tensorstore_leak
from jaxpt.train.checkpoint import Checkpointer

FOLDERS = [
    {"driver": "file", "path": "/a/"},
    {"driver": "file", "path": "/b/"},
    {"driver": "file", "path": "/a/", "file_io_sync": False},
    {"driver": "memory"},
]


@pytest.mark.skipif(sys.implementation.name != "cpython", reason="counts CPython's objects")
def test_a_save_leaves_few_objects_of_python(tmp_path):
    state = {f"kernel{i}": jnp.full((4, 4), i) for i in range(30)}
    checkpointer, objects = Checkpointer(tmp_path, keep=1, about={}), {}
    for step in range(1, 26):
        checkpointer.save(step, state, final=True)
        gc.collect()
        objects[step] = sys.getallocatedblocks()
    checkpointer.close()
    # 11 in long runs; 397 as tensorstore and orbax are: 4 for each array, 277 for counters.
    assert (objects[25] - objects[10]) / 15 < 60


def test_what_is_avoided_is_there():
    """Should this fail, tensorstore has mended it, and the module can go."""
    as_it_is, spec = (
        tensorstore.KvStore.Spec.to_json.__wrapped__,
        tensorstore.KvStore.Spec(FOLDERS[0]),
    )
    gc.collect()
    before = sys.getallocatedblocks()
    for _ in range(1000):
        as_it_is(spec)
    gc.collect()
    assert sys.getallocatedblocks() - before > 3000  # four strings a call


def test_json_of_a_folder_is_what_it_was():
    as_it_is, asked = tensorstore.KvStore.Spec.to_json.__wrapped__, []
    to_json = tensorstore_leak._remembering(lambda spec: asked.append(spec) or as_it_is(spec))
    for spec in map(tensorstore.KvStore.Spec, FOLDERS + FOLDERS[::-1]):
        for _ in range(3):
            got = to_json(spec)
            assert got == as_it_is(spec) == tensorstore.KvStore.Spec.to_json(spec)
            got["path"] = "changed by the caller"
    assert len(asked) == 7  # the last of the first four is the first of the others
    assert "file_io_sync" in tensorstore.KvStore.Spec(FOLDERS[0]).to_json(include_defaults=True)


def test_other_counters_are_still_told():
    tensorstore_leak.avoid()  # a second time changes nothing
    collect = tensorstore.experimental_collect_matching_metrics
    assert collect("/tensorstore/kvstore/") == []
    assert collect("/tensorstore/", include_zero_metrics=True)
