"""Memory of the ImageNet recipes by the TPU's compiler, which needs no TPU.

    python benchmarks/tpu_compile.py [NAME …] [--topology v5e:2x4] [--effort -1]

Compiles the step of each recipe, or of the named ones, for a topology (``jaxpt plan --compile``),
and adds a record to benchmarks/records/tpu_compile.jsonl as soon as one is done; those that are
there already, of the same config, are not compiled again. The compiler's least effort, the default
here, takes a minute per recipe; its usual one, 0, takes many. If a recipe does not fit, it is
compiled with model.remat, too, which changes no result, and if that does not help with
micro_batches, which BatchNorm notices. Needs libtpu: ``pip install 'jaxpt[tpu]'``.
"""

import argparse
import importlib
import pathlib

import jax
from jaxpt.configs.pretrain import digits, recipes

from jaxpt import records
from jaxpt.cost import compiling, plan
from jaxpt.errors import InputError
from jaxpt.methods import METHODS
from jaxpt.report.results import join

RECORDS = pathlib.Path(__file__).parent / "records" / "tpu_compile.jsonl"
TOPOLOGY = "v5e:2x4"


def recipe(method: str, variant: str = ""):
    """A method's recipe for ImageNet-1k."""
    return importlib.import_module(f"jaxpt.configs.pretrain.imagenet.{method}").get_config(variant)


def key_of(config, topology: str, effort: float) -> str:
    """Key of a record: the config, the topology and the compiler's effort."""
    return records.key_of({"config": config.to_dict(), "topology": topology, "effort": effort})


def made(name: str, config, topology: str, sizes: dict, effort: float) -> dict:
    """Compiles a recipe; the record says why if it does not fit."""
    jax.config.update("jax_exec_time_optimization_effort", effort)
    record = {
        "benchmark": "tpu_compile",
        "key": key_of(config, topology, effort),
        "effort": effort,
        "name": name,
        "topology": topology,
        "batch": config.batch_size,
        "mapping": config.mapping,
        "remat": config.model.remat,
        "micro_batches": config.micro_batches,
    }
    try:
        found = compiling.run(config, topology, **sizes)
        record |= {"compiled": found._asdict(), "error": ""}
    except InputError as error:
        record |= {"compiled": None, "error": str(error)}
    return record | records.surroundings()


def stored() -> dict[str, dict]:
    """The latest record of each recipe on ``TOPOLOGY``, by name; least effort, shard_map."""
    usual = TOPOLOGY, -1, "shard_map"
    found = records.read(RECORDS)
    return {r["name"]: r for r in found if (r["topology"], r["effort"], r["mapping"]) == usual}


def settings(record: dict) -> list[str]:
    """Settings with which a recipe was compiled, beside its own."""
    parts = record["micro_batches"]
    return ["model.remat"] * record["remat"] + [f"micro_batches={parts}"] * (parts > 1)


def cell(name: str) -> str:
    """What the table of recipes says about one."""
    record = stored().get(name)
    if record is None:
        return "not compiled yet"
    if record["compiled"] is None:
        return "does not fit"
    gigabytes = plan.rounded(sum(record["compiled"]["memory"].values()) / 1e9)
    capacity = compiling.chips.parse(compiling.chips_of(TOPOLOGY))[0].memory / 1e9
    return ", ".join([f"{gigabytes} GB of {capacity:.0f}", *settings(record)])


def markdown() -> str:
    """Table of what has been compiled."""
    lines = [
        "| recipe | topology | effort | batch | GB per chip | – arguments | – temporaries | "
        "all-reduce | all-gather | sorts | selections | lowering and compiling, s |",
        "| --- | --- |" + " ---: |" * 10,
    ]
    for r in records.read(RECORDS):
        said = ["pmap"] * (r["mapping"] == "pmap") + settings(r)
        head = f"| {r['name']}{f' ({join(said)})' * bool(said)} | {r['topology']} | "
        head += f"{r['effort']:g} | ".replace("-", "−")
        c = r["compiled"]
        if c is None:
            lines.append(f"{head}{r['batch']:,} | does not fit |" + " |" * 7)
            continue
        memory = c["memory"]
        numbers = [
            f"{r['batch']:,}",
            plan.rounded(sum(memory.values()) / 1e9),
            *(
                plan.rounded(memory[name] / 1e9) if name in memory else ""
                for name in ("arguments", "temporaries")
            ),
            *(str(c["collectives"][name]) for name in ("all-reduce", "all-gather")),
            *(str(c[name]) for name in ("sorts", "top_ks")),
            f"{sum(c['seconds'].values()):,.0f}",
        ]
        lines.append(head + " | ".join(numbers) + " |")
    made = sorted({f"revision {r['revision']}, {r['date']}" for r in records.read(RECORDS)})
    lines.append(f"\nCompiled without a TPU: {'; '.join(made)}.")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="methods, or digits; default: all recipes")
    parser.add_argument("--topology", default=TOPOLOGY)
    parser.add_argument("--effort", type=float, default=-1.0, help="of the compiler, −1 to 1")
    parser.add_argument("--mapping", default="shard_map", choices=("shard_map", "pmap"))
    how = parser.parse_args()
    jax.config.update("jax_platforms", "cpu")  # or JAX would look for a TPU, as libtpu is there
    compiling.devices_of(how.topology)  # raises if it is unknown, or without libtpu
    known = {record["key"]: record for record in records.read(RECORDS)}
    imagenet = {"images": recipes.IMAGES, "classes": recipes.CLASSES}
    for name in how.names or METHODS:
        small = name == "digits"
        config = digits.get_config("look") if small else recipe(name)
        config.mapping = how.mapping
        sizes = {} if small else imagenet
        for config.model.remat, config.micro_batches in ((False, 1), (True, 1), (True, 2)):
            key = key_of(config, how.topology, how.effort)
            if key not in known:
                known[key] = made(name, config, how.topology, sizes, how.effort)
                records.append(RECORDS, known[key])
            if known[key]["compiled"]:
                break
    print(markdown())


if __name__ == "__main__":
    main()
