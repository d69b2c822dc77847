"""The real step, compiled by the TPU's compiler on a machine without a TPU.

libtpu (extra ``tpu``) compiles for a topology that it is given by name. Its memory per chip and the
operations of the compiled program are facts; it gives no times.
"""

import importlib.util
import math
import os
import re
import time
from typing import NamedTuple

import jax
import ml_collections
from jax.experimental import topologies

from jaxpt import pretrain
from jaxpt.cost import chips, plan
from jaxpt.data import augment
from jaxpt.data.feed import Undecoded
from jaxpt.errors import InputError, require
from jaxpt.methods import encoding
from jaxpt.train import accelerator, parallel

COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
# libtpu asks the machine for these, and complains if there is no TPU.
ENVIRONMENT = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-8",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_MIN_LOG_LEVEL": "3",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # by several processes at once
}


class Compiled(NamedTuple):
    """What the compiler says about a step.

    Attributes:
      topology: its name, such as "v5e:2x4".
      memory: bytes per chip, by name: "arguments", "temporaries", "results" without those that
        take the place of donated arguments, and "program".
      collectives: number of operations in the program, by name.
      sorts: number of operations that sort.
      top_ks: number of operations that select the largest values.
      seconds: of lowering and of compiling.
    """

    topology: str
    memory: dict[str, int]
    collectives: dict[str, int]
    sorts: int
    top_ks: int
    seconds: dict[str, float]


def run(
    config: ml_collections.ConfigDict, topology: str, *, images: int = 0, classes: int = 0
) -> Compiled:
    """Compiles a config's step for all chips of a TPU topology.

    Args:
      config: the pre-training config.
      topology: name such as "v5e:2x4", see ``chips_of``.
      images, classes: size of the training set, if config and folder do not determine it.

    Raises:
      InputError: for an unknown topology, without libtpu, if the step does not fit into the chips'
        memory, or for anything that pre-training itself would refuse.
    """
    among = devices_of(topology)
    sizes = plan.sizes_of(config, images=images, classes=classes)
    devices = parallel.Devices(config.mapping, among=among)
    devices.check_batch(config.batch_size)
    encoding.check_micro_batches(config, devices.count)
    began = time.perf_counter()
    with augment.as_on_accelerators():
        lowered = program_of(config, sizes, devices).lower()
    at = time.perf_counter()
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        found = re.search(r"Used (\S+) of (\S+) hbm", str(error))
        require(
            "RESOURCE_EXHAUSTED" not in str(error),
            f"the step does not fit into the memory of a chip of {topology}"
            + (f" (it needs {found[1]} of {found[2]})" if found else "")
            + ": raise micro_batches, lower batch_size, set model.remat or memory_sharding, or "
            "use more chips.",
        )
        raise
    seconds = {"lowering": at - began, "compiling": time.perf_counter() - at}
    return summary(topology, compiled, seconds)


def program_of(
    config: ml_collections.ConfigDict, sizes: plan.Sizes, devices: parallel.Devices
) -> parallel.Program:
    """The program of a run's step on these devices, for a set of these sizes."""
    method, _ = plan.prepare(config, sizes)
    image = (sizes.side, sizes.side, sizes.channels)
    shapes = pretrain.state_shapes(method, config, image)
    like = devices.placed(shapes, pretrain.axes_of(shapes, config, devices.count))
    images, host = plan.images_of(config, sizes)
    feed = Undecoded(sizes.images, images, devices, resident=not host)
    return pretrain.step_program(method, config, devices, feed, like)


def summary(topology: str, compiled, seconds: dict[str, float]) -> Compiled:
    """Reads memory and operations from a compiled program."""
    there, text = compiled.memory_analysis(), compiled.as_text()
    return Compiled(
        topology,
        {
            "arguments": there.argument_size_in_bytes,
            "temporaries": there.temp_size_in_bytes,
            "results": there.output_size_in_bytes - there.alias_size_in_bytes,
            "program": there.generated_code_size_in_bytes,
        },
        {name: operations(text, name) for name in COLLECTIVES},
        operations(text, "sort"),
        operations(text, "topk") + text.count('custom_call_target="TopK"'),
        seconds,
    )


def operations(text: str, name: str) -> int:
    """Number of operations with this name in the text of a compiled program."""
    return len(re.findall(rf"[\])}}] {name}(?:-start)?\(", text))


def chips_of(topology: str) -> str:
    """Name of a topology's slice as ``jaxpt plan`` has it: "v5e-8" for "v5e:2x4".

    Raises:
      InputError: unless it is a kind of TPU and two or three lengths.
    """
    found = re.fullmatch(r"(\w+):(\d+(?:x\d+){1,2})", topology)
    tpus = [name for name in chips.CHIPS if name.startswith("v")]
    require(
        found is not None and found[1] in tpus,
        f"the topology must be one of {', '.join(tpus)} with its shape, as in v5e:2x4 or "
        f"v4:2x2x1, got {topology!r}.",
    )
    count = math.prod(map(int, found[2].split("x")))
    name = f"{found[1]}-{count * (2 if chips.CHIPS[found[1]].named_by_cores else 1)}"
    chips.parse(name)
    return name


def devices_of(topology: str) -> list[jax.Device]:
    """Devices of a topology, for which programs can be compiled.

    Raises:
      InputError: for an unknown topology, or without libtpu.
    """
    chips_of(topology)
    require(
        importlib.util.find_spec("libtpu") is not None or "TPU_LIBRARY_PATH" in os.environ,
        "compiling for a TPU needs libtpu: install 'jaxpt[tpu]'.",
    )
    if not accelerator.has_tpu():
        for name, value in ENVIRONMENT.items():
            os.environ.setdefault(name, value)
    try:
        return topologies.get_topology_desc(platform="tpu", topology_name=topology).devices
    except (RuntimeError, ValueError) as error:
        raise InputError(
            f"libtpu has no topology {topology!r} ({' '.join(str(error).split())[:200]})."
        ) from error


def rows(found: Compiled, planned: plan.Plan) -> list[tuple[str, list[str]]]:
    """Rows of a table: (title, cells of the compiler and of the plan)."""

    def gigabytes(number):
        return plan.rounded(number / 1e9)

    def total(number):
        return f"{gigabytes(number)} of {planned.capacity / 1e9:,.0f}"

    lasting = sum(planned.memory.values()) - planned.memory["activations, gradients"]
    return [
        ("chips", [f"{planned.count:,}"] * 2),
        (
            "state and images, GB per chip",
            [gigabytes(found.memory["arguments"]), gigabytes(lasting)],
        ),
        (
            "temporaries, GB per chip",
            [
                gigabytes(found.memory["temporaries"]),
                gigabytes(planned.memory["activations, gradients"]),
            ],
        ),
        (
            "results and program, GB per chip",
            [gigabytes(found.memory["results"] + found.memory["program"]), ""],
        ),
        (
            "total, GB per chip",
            [total(sum(found.memory.values())), total(sum(planned.memory.values()))],
        ),
        *((name, [str(count), ""]) for name, count in found.collectives.items() if count),
        ("sorts left", [str(found.sorts), ""]),
        ("selections of the largest left", [str(found.top_ks), ""]),
        *((f"{name}, s", [plan.rounded(s), ""]) for name, s in found.seconds.items()),
    ]
