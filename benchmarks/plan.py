"""LOOK's step from one chip to a TPU v5e-256 slice, on paper: nothing here was run on a TPU.

    python benchmarks/plan.py

FLOPs and activations are counted in jaxpt's own ResNet-50, as it is traced; what a chip can do is
public; what else is assumed stands in ``ASSUMED``.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from jaxpt import models

# TPU v5e, Google's figures. Bytes/s: of the memory, and of all links of a chip together.
CHIP = {"flops": 197e12, "memory_bytes": 16e9, "memory_rate": 819e9, "link_rate": 1600e9 / 8}
ASSUMED = {
    "utilisation": 0.5,  # of the peaks, for arithmetic, memory and links alike
    "passes": 4,  # over each convolution's output, forward: written, for statistics, normed, read
    "backward": 2,  # times the forward's FLOPs and passes
    "kept": 2,  # activations that wait for the backward pass, per convolution
    "state": 4,  # float32 copies of the parameters: they, momentum, target, gradient
}
SHAPES = {"pixels": 224, "batch": 64, "memory": 1_281_167, "dim": 128, "k": 400, "epochs": 100,
          "images": 1_281_167}
CHIPS = (1, 8, 64, 256)
ACTIVATION, FLOAT, KEY = 2, 4, 4  # bytes: of bfloat16, of float32, of a key's entries


@functools.cache
def network(pixels: int, dim: int) -> dict[str, float]:
    """FLOPs and convolution outputs of ResNet-50 and projector for an image, and parameters."""
    encoder = models.Encoder(models.ResNet50(dtype=jnp.bfloat16),
                             models.Projector((2048,), dim, dtype=jnp.bfloat16))
    image = jax.ShapeDtypeStruct((1, pixels, pixels, 3), jnp.float32)
    shapes = jax.eval_shape(lambda x: encoder.init(jax.random.key(0), x, False), image)
    traced = jax.make_jaxpr(lambda v, x: encoder.apply(v, x, False))(shapes, image)
    flops = outputs = 0
    for equation in equations(traced.jaxpr):
        out = equation.outvars[0].aval
        if equation.primitive.name == "conv_general_dilated":
            flops += 2 * out.size * np.prod(equation.invars[1].aval.shape[:-1])
            outputs += out.size
        elif equation.primitive.name == "dot_general":
            flops += 2 * out.size * equation.invars[1].aval.shape[0]
    parameters = sum(x.size for x in jax.tree.leaves(shapes["params"]))
    return {"flops": float(flops), "outputs": float(outputs), "parameters": float(parameters)}


def equations(jaxpr):
    """All equations, those of jaxprs within too."""
    for equation in jaxpr.eqns:
        yield equation
        for value in equation.params.values():
            if hasattr(value, "jaxpr"):
                yield from equations(value.jaxpr)


def step(chips: int, s: dict = SHAPES, a: dict = ASSUMED) -> dict[str, float]:
    """Seconds, bytes and chip-hours for ``chips`` chips with ``s["batch"]`` images each.

    Online forward and backward and target forward; the memory split over the chips, every chip
    searching its part for the queries of all; ring all-reduce of float32 gradients.
    """
    net, batch, whole = network(s["pixels"], s["dim"]), s["batch"], s["batch"] * chips
    times = 1 + a["backward"] + 1
    own_keys = s["memory"] / chips
    search_flops = 2 * whole * own_keys * s["dim"]
    rate = {name: a["utilisation"] * value for name, value in CHIP.items()}
    arithmetic = times * batch * net["flops"] / rate["flops"]
    traffic = times * a["passes"] * batch * net["outputs"] * ACTIVATION / rate["memory_rate"]
    # float32 products at the highest precision are six passes of bfloat16 ones.
    similarities = 2 * whole * own_keys * FLOAT / rate["memory_rate"]
    search = max(6 * search_flops / rate["flops"],
                 similarities + own_keys * s["dim"] * KEY / rate["memory_rate"])
    reduced = 2 * (chips - 1) / chips * net["parameters"] * FLOAT
    # Queries out, keys in, and of each query k candidates (value and index) from every chip.
    exchanged = (chips - 1) / chips * (2 * whole * s["dim"] * FLOAT
                                       + 2 * batch * s["k"] * chips * FLOAT)
    links = (reduced + exchanged) / rate["link_rate"]
    seconds = max(arithmetic, traffic) + search + links
    held = (a["state"] * net["parameters"] * FLOAT + own_keys * (s["dim"] * KEY + 9)
            + a["kept"] * batch * net["outputs"] * ACTIVATION)
    hours = s["epochs"] * s["images"] / whole * seconds / 3600
    return {"arithmetic": arithmetic, "traffic": traffic, "search": search, "links": links,
            "seconds": seconds, "images": whole / seconds, "reduced": reduced,
            "exchanged": exchanged, "held": held, "hours": hours, "chip_hours": chips * hours}


def markdown() -> str:
    """The plan as a table, and what went into it."""
    lines = ["| chips | batch | arithmetic, ms | memory traffic, ms | search, ms | links, ms | "
             "step, ms | images/s | all-reduce, MB | exchanged, MB | held, GB | 100 epochs, h | "
             "chip-hours |", "| ---: |" + " ---: |" * 12]
    for chips in CHIPS:
        x = step(chips)
        cells = [f"{SHAPES['batch'] * chips:,}",
                 *(f"{1e3 * x[name]:.1f}" for name in ("arithmetic", "traffic", "search", "links",
                                                       "seconds")),
                 f"{x['images']:,.0f}", f"{x['reduced'] / 1e6:.0f}", f"{x['exchanged'] / 1e6:.0f}",
                 f"{x['held'] / 1e9:.1f}", f"{x['hours']:.1f}", f"{x['chip_hours']:.0f}"]
        lines.append(f"| {chips} | " + " | ".join(cells) + " |")
    net = network(SHAPES["pixels"], SHAPES["dim"])
    lines.append(f"\nOne image: {net['flops'] / 1e9:.1f} GFLOP forward, "
                 f"{net['outputs'] / 1e6:.1f} million outputs of convolutions; "
                 f"{net['parameters'] / 1e6:.1f} million parameters with the projector. Memory: "
                 f"{SHAPES['memory']:,} keys × {SHAPES['dim']}, k = {SHAPES['k']}.")
    return "\n".join(lines)


if __name__ == "__main__":
    print(markdown())
