"""Accelerators, by the figures that their makers publish.

FLOP/s are of dense products, bytes/s of a chip's memory and of all its links in one direction.

- TPUs: Google Cloud's pages "TPU v4", "TPU v5e", "TPU v5p" and "TPU v6e", whose link bandwidths are
  those of both directions together. v4's page has none: 2,400 Gbit/s is believed and unchecked.
  Products of float32 numbers take one pass as bfloat16 at JAX's default precision, six at its
  highest, which is JAX's choice and no figure of Google's.
- GPUs: NVIDIA's data sheets of A100 (80 GB, SXM), H100 (SXM), H200 (SXM), L4 and T4, as widely
  quoted; H100's were read in a third party's table, the others are unchecked. float32 at JAX's
  default precision is TF32 where there is such a thing. A T4 has no bfloat16: it is computed in
  float32.
"""

from typing import NamedTuple

from jaxpt.errors import require


class Chip(NamedTuple):
    """What one chip can do at most.

    Attributes:
      flops: FLOP/s of products by kind: "bfloat16", "float32" (at JAX's default precision) and
        "exact" (float32 at its highest).
      memory: bytes.
      memory_rate: bytes/s.
      link_rate: bytes/s that it can send to the others.
      most: chips that such links join.
      named_by_cores: the number in the maker's name of a slice counts two cores a chip.
    """

    flops: dict[str, float]
    memory: float
    memory_rate: float
    link_rate: float
    most: int
    named_by_cores: bool = False


def _tpu(tera, memory, memory_rate, link_rate, most, named_by_cores=False):
    flops = {"bfloat16": tera * 1e12, "float32": tera * 1e12, "exact": tera * 1e12 / 6}
    return Chip(flops, memory, memory_rate, link_rate, most, named_by_cores)


def _gpu(bfloat16, float32, exact, memory, memory_rate, link_rate):
    flops = {"bfloat16": bfloat16 * 1e12, "float32": float32 * 1e12, "exact": exact * 1e12}
    return Chip(flops, memory, memory_rate, link_rate, most=8)


CHIPS = {
    "v4": _tpu(275, 32 * 2**30, 1200e9, 300e9, 4096, named_by_cores=True),
    "v5e": _tpu(197, 16e9, 819e9, 200e9, 256),
    "v5p": _tpu(459, 95e9, 2765e9, 600e9, 6144, named_by_cores=True),
    "v6e": _tpu(918, 32e9, 1638e9, 400e9, 256),
    "a100": _gpu(312, 156, 19.5, 80e9, 2039e9, 300e9),
    "h100": _gpu(989, 494, 67, 80e9, 3350e9, 450e9),
    "h200": _gpu(989, 494, 67, 141e9, 4800e9, 450e9),
    "l4": _gpu(121, 60, 30.3, 24e9, 300e9, 32e9),  # links: PCIe
    "t4": _gpu(8.1, 8.1, 8.1, 16e9, 320e9, 16e9),  # links: PCIe
}


def parse(name: str) -> tuple[Chip, int]:
    """The chip of a name such as "v5e-8" or "h100-1", and how many.

    v4 and v5p are named as Google names them, by cores: "v4-16" is eight chips.

    Raises:
      InputError: for an unknown chip, a CPU, or a number that there is not.
    """
    kind, dash, number = name.partition("-")
    require(
        kind != "cpu",
        "chips cpu: a CPU has no published peak that a plan could start from; "
        f"name one of {', '.join(CHIPS)}, as in v5e-8.",
    )
    require(
        kind in CHIPS,
        f"chips must be one of {', '.join(CHIPS)} with a number, as in v5e-8, got {name!r}.",
    )
    require(
        bool(dash) and number.isdecimal() and int(number) >= 1,
        f"chips {name!r} must say how many, as in {kind}-8.",
    )
    chip, count = CHIPS[kind], int(number)
    if chip.named_by_cores:
        require(
            count % 2 == 0,
            f"chips {name!r}: a {kind} is named by its cores, two a chip, so "
            "the number must be even.",
        )
        count //= 2
    require(count <= chip.most, f"chips {name!r}: such links join at most {chip.most} chips.")
    return chip, count
