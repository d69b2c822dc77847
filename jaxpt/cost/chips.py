"""Published peaks of accelerators.

FLOP/s are for dense products. Bytes/s are for a chip's memory, and for all its links in one
direction.

- TPUs: Google Cloud's pages "TPU v4", "TPU v5e", "TPU v5p" and "TPU v6e", whose link bandwidths
  count both directions together. v4's page has no link bandwidth: 2,400 Gbit/s is assumed and
  unchecked. Products of float32 numbers take one bfloat16 pass at JAX's default precision and six
  at its highest, which is JAX's choice and not a figure of Google's.
- GPUs: NVIDIA's data sheets of A100 (80 GB, SXM), H100 (SXM), H200 (SXM), L4 and T4, as widely
  quoted. H100's figures were read in a third party's table; the others are unchecked. float32 at
  JAX's default precision is TF32 on GPUs that have it. A T4 has no bfloat16 and computes it in
  float32.
"""

from typing import NamedTuple

from jaxpt.errors import require


class Chip(NamedTuple):
    """Peak rates and capacity of one chip.

    Attributes:
      flops: FLOP/s of products by kind: "bfloat16", "float32" (at JAX's default precision) and
        "exact" (float32 at the highest precision).
      memory: bytes.
      memory_rate: bytes/s.
      link_rate: bytes/s that the chip can send to others.
      most: largest number of chips that such links join.
      named_by_cores: whether the number in a slice's name counts cores, two per chip.
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
    """Parses a name such as "v5e-8" or "h100-1" into a chip and a number of chips.

    v4 and v5p are named by cores, as Google names them: "v4-16" is eight chips.

    Raises:
      InputError: for an unknown chip, a CPU, or an invalid number.
    """
    kind, dash, number = name.partition("-")
    require(
        kind != "cpu",
        "chips cpu: a CPU has no published peak that a plan could use; "
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
            f"chips {name!r}: {kind} counts cores, two per chip, so the number must be even.",
        )
        count //= 2
    require(
        count <= chip.most, f"chips {name!r}: its links join at most {chip.most} chips, use fewer."
    )
    return chip, count
