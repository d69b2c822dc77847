"""The step compiled by the TPU's compiler: names of topologies, counts, and what is refused."""

import importlib.util

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import SingleDeviceSharding
from jaxpt.configs.pretrain import digits

from jaxpt import cli
from jaxpt.cost import compiling, plan
from jaxpt.errors import InputError
from jaxpt.losses import look

PROGRAM = """
  %all-reduce.1 = (f32[4]{0}, f32[]) all-reduce(%a, %b), channel_id=1
  %all-gather-start = (f32[4]{0:T(128)}, f32[8]{0}) all-gather-start(%c), dimensions={0}
  %all-gather-done = f32[8]{0:T(128)} all-gather-done(%all-gather-start)
  %sort.2 = (f32[8]{0}, s32[8]{0}) sort(%d, %e), dimensions={0}, metadata={op_name="jit(f)/sort"}
  ROOT %fusion = f32[] fusion(%all-reduce.1), calls=%sort_fusion
"""


def test_operations_are_counted_once():
    counted = {
        name: compiling.operations(PROGRAM, name)
        for name in ("all-reduce", "all-gather", "sort", "fusion", "reduce-scatter")
    }
    assert counted == {
        "all-reduce": 1,
        "all-gather": 1,
        "sort": 1,
        "fusion": 1,
        "reduce-scatter": 0,
    }


def test_the_slice_of_a_topology():
    names = {"v5e:2x4": "v5e-8", "v5e:16x16": "v5e-256", "v4:2x2x1": "v4-8", "v5p:2x2x2": "v5p-16"}
    assert {name: compiling.chips_of(name) for name in names} == names


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--compile=v9:2x2"], "the topology must be one of v4, v5e, v5p, v6e with its shape"),
        (["--compile=v5e-8"], "as in v5e:2x4 or v4:2x2x1, got 'v5e-8'"),
        (["--compile=h100:2x4"], "got 'h100:2x4'"),
        (["--compile=v5e:32x16"], "its links join at most 256 chips"),
        (["--compile=v5e:2x2"], "needs libtpu: install 'jaxpt[tpu]'"),
        ([], "name chips to plan for, as in --chips=v5e-8, or a topology"),
    ],
)
def test_bad_input_is_one_sentence_and_status_2(arguments, words, capsys, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.delenv("TPU_LIBRARY_PATH", raising=False)
    assert cli.main(["plan", *arguments]) == 2
    said = capsys.readouterr().err
    assert words in said and len(said.splitlines()) == 1


@pytest.mark.extras
def test_a_small_step_compiles_for_four_chips():
    pytest.importorskip("libtpu")
    with pytest.raises(InputError, match="libtpu has no topology 'v5e:3x7'"):
        compiling.run(digits.get_config("look"), "v5e:3x7")
    config = digits.get_config("look,smoke")
    found = compiling.run(config, "v5e:2x2")
    (planned,) = plan.run(config, ["v5e-4"])
    state = sum(planned.memory[name] for name in ("parameters", "optimizer", "target"))
    # Padded to tiles, but not more than a few times as large; results take the arguments' place.
    assert state < found.memory["arguments"] < 10 * state + 1e6
    assert found.memory["results"] < 0.5 * state
    assert sum(found.memory.values()) < 1e9
    assert found.collectives["all-reduce"] > 0 and found.collectives["all-gather"] > 0
    rows = dict(compiling.rows(found, planned))
    assert rows["chips"] == ["4", "4"] and rows["total, GB per chip"][0].endswith("of 16")


@pytest.mark.extras
def test_look_holds_two_matrices_of_its_chunk_and_no_copy_of_the_keys():
    """Value and gradient for a memory of ImageNet's size, masked and in bfloat16."""
    pytest.importorskip("libtpu")
    on = SingleDeviceSharding(compiling.devices_of("v5e:2x2")[0])
    batch, n, dim = 256, 1_281_167, 128
    queries, keys, labels, key_labels, mask = (
        jax.ShapeDtypeStruct(shape, dtype, sharding=on)
        for shape, dtype in (
            ((batch, dim), jnp.float32),
            ((n, dim), jnp.bfloat16),
            ((batch,), jnp.int32),
            ((n,), jnp.int32),
            ((n,), bool),
        )
    )

    def value(queries, keys, labels, key_labels, mask):
        losses, _ = look(queries, keys, labels, key_labels, k=400, key_mask=mask)
        return jnp.mean(losses)

    traced = jax.jit(jax.value_and_grad(value)).trace(queries, keys, labels, key_labels, mask)
    lowered = traced.lower(lowering_platforms=("tpu",))
    compiled = lowered.compile({"exec_time_optimization_effort": -1.0})
    # A copy of the keys in float32 has 656 MB, and eight rows of similarities have 41.
    assert compiled.memory_analysis().temp_size_in_bytes < 400e6
