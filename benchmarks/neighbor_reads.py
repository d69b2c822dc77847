"""How often LOOK reads its similarities, counted in the compiled program: needs no accelerator.

    python benchmarks/neighbor_reads.py [--topology v5e:2x2] [FORM …]

Compiles value and gradient of LOOK at the seven sizes of ``gpu.py`` in each form, and reads from
the program how many bytes its operations read and write, in units of the matrix of similarities
(batch × keys × 4 bytes). By default the program is the CPU's; with a topology, that of the TPU's
compiler. "sketch" is the plain implementation that the forms are to beat: all similarities, a
search with seven thresholds per pass in eleven passes, masked log-sum-exps and autodiff.

Operations within a fusion are not counted, a loop counts as often as it runs, and of two branches
the cheaper counts: the other is for ties and for queries without a positive. The selection's loop
runs until every row is done, so its passes are counted by running it, on keys that are random and
on keys in clusters. A sort counts as one pass, though it takes several. Adds a record per form and
size to benchmarks/records/neighbor_reads.jsonl; those that are there are not made again.
"""

import argparse
import math
import pathlib
import re

import gpu
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import SingleDeviceSharding

from jaxpt import records
from jaxpt.cost import compiling
from jaxpt.losses import look
from jaxpt.ops import knn, selection, similarity

RECORDS = pathlib.Path(__file__).parent / "records" / "neighbor_reads.jsonl"
DIM = 128
FORMS = ("chunked", "dense", "streamed", "sketch")
SKETCH = 12  # reads of the sketch: the similarities once, and eleven passes
KEYS = {"": "float32", "masked": "float32", "masked bfloat16": "bfloat16"}
LARGEST = 2**28  # similarities that the dense forms hold here
FREE = {"parameter", "get-tuple-element", "tuple", "bitcast", "constant", "iota", "after-all"}
DONE = re.compile(r"(copy|async|slice|all-gather)-done$")
BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s16": 2, "u16": 2, "s64": 8, "u64": 8}


# What a program reads


class Program:
    """The operations of a compiled program, read from its text.

    Args:
      text: of the program.
      trips: number of runs of a loop whose condition is no count, by the bytes of a run.
    """

    def __init__(self, text: str, trips=lambda _: 1):
        self.trips, self.bodies, self.shapes, self.entry = trips, {}, {}, ""
        body = []
        for line in text.splitlines():
            head = re.match(r"^(ENTRY )?%?([\w.\-]+) .*\{$", line)
            if head:
                body = self.bodies[head[2]] = []
                self.entry = head[2] if head[1] else self.entry
            found = re.match(r"\s+(ROOT )?%?([\w.\-]+) = (\(.*?\)|\S+) ([\w\-]+)\((.*)", line)
            if found:
                root, name, shape, op, rest = found.groups()
                within, _, attributes = rest.partition(")")
                operands = re.findall(r"%([\w.\-]+)", within)
                self.shapes[name] = shape
                body.append((name, op, operands, within, attributes, bool(root)))

    def traffic(self, name: str = "") -> np.ndarray:
        """Bytes of a computation: (reads, writes, reads of keys, writes of keys)."""
        return sum(
            (self._of(*operation) for operation in self.bodies[name or self.entry]), np.zeros(4)
        )

    def _of(self, name, op, operands, within, attributes, root):
        called = re.findall(r"(?:calls|to_apply|body)=%?([\w.\-]+)", attributes)
        if op in FREE or DONE.search(op):
            return np.zeros(4)
        if op == "while":
            once = self.traffic(called[0])
            return self._count(attributes, once) * once
        if op == "conditional":
            listed = re.search(r"branch_computations=\{(.*?)\}", attributes)
            branches = re.findall(r"%([\w.\-]+)", listed[1] if listed else "") or re.findall(
                r"(?:true|false)_computation=%?([\w.\-]+)", attributes
            )
            return min((self.traffic(branch) for branch in branches), key=lambda x: x[:2].sum())
        if op == "call" or op.endswith("-start") and called:
            return self.traffic(called[0])
        if op == "fusion":
            return self._fusion(name, operands, called[0])
        if op == "dynamic-slice":
            return _bytes(self.shapes[name], 0) + _bytes(self.shapes[name], 1)
        if op == "dynamic-update-slice":
            return _bytes(self.shapes[operands[1]], 0) + _bytes(self.shapes[operands[1]], 1)
        result = self.shapes[name]
        if op.endswith("-start"):  # its result names the operand again
            result = re.sub(r"^\((\w+\[[\d,]*\]).*", r"\1", result)
        return sum(
            (_bytes(self.shapes.get(x, ""), 0) for x in dict.fromkeys(operands)), np.zeros(4)
        ) + _bytes(result, 1)

    def _fusion(self, name, operands, called):
        """A fusion reads slices of what it only slices, and writes what it updates in place."""
        found = [self._use(called, i, x) for i, x in enumerate(operands)]
        total = sum((moved for moved, _ in found), np.zeros(4))
        updates = any(updated for _, updated in found)
        return total if updates else total + _bytes(self.shapes[name], 1)

    def _use(self, called, number, operand):
        """Bytes that a fusion moves for one of its operands, and whether it updates that."""
        inside = self.bodies[called]
        (parameter,) = (n for n, op, _, w, *_ in inside if op == "parameter" and int(w) == number)
        names, total, updates = {parameter}, np.zeros(4), False
        for inner, op, given, _, attributes, _ in inside:
            places = [i for i, x in enumerate(given) if x in names]
            if not places:
                continue
            if op == "bitcast":  # is the operand itself
                names.add(inner)
            elif op == "dynamic-slice":
                total += _bytes(self.shapes[inner], 0)
            elif op == "dynamic-update-slice" and places == [0]:
                updates = True
                total += _bytes(self.shapes[given[1]], 1)
            elif op == "fusion":
                nested = re.search(r"calls=%?([\w.\-]+)", attributes)[1]
                for place in places:
                    moved, updated = self._use(nested, place, operand)
                    total, updates = total + moved, updates or updated
            else:
                return _bytes(self.shapes.get(operand, ""), 0), False
        return total, updates

    def _count(self, attributes, once):
        known = re.search(r'"known_trip_count":\{"n":"(\d+)"\}', attributes)
        if known:
            return int(known[1])
        condition = self.bodies[re.search(r"condition=%?([\w.\-]+)", attributes)[1]]
        limits = [w for _, op, _, w, _, _ in condition if op == "constant" and w.isdigit()]
        return int(limits[0]) if len(limits) == 1 else self.trips(once)


def _bytes(shape: str, place: int) -> np.ndarray:
    """Bytes of an array or a tuple, counted as reads (place 0) or writes (1), of keys or not."""
    total = np.zeros(4)
    for kind, sizes in re.findall(r"(\w+)\[([\d,]*)\]", re.sub(r"\{[^}]*\}", "", shape)):
        sizes = [int(size) for size in sizes.split(",") if size]
        of_keys = len(sizes) > 1 and DIM in (sizes[0], sizes[-1])
        total[place + 2 * of_keys] += math.prod(sizes) * BYTES.get(kind, 4)
    return total


# Passes of the selection


def features(kind: str, rows: int, n: int, seed: int = 0):
    """(queries, keys) of length one: "random" ones, or in 100 "clusters"."""
    rng = np.random.default_rng(seed)

    def made(count):
        x = rng.standard_normal((count, DIM), np.float32)
        if kind == "clusters":
            x = 0.5 * x + centres[rng.integers(len(centres), size=count)]
        return x / np.linalg.norm(x, axis=1, keepdims=True)

    centres = rng.standard_normal((100, DIM), np.float32)
    return made(rows), made(n)


def passes(kind: str, rows: int, n: int, k: int, thresholds: int) -> dict[str, int]:
    """Passes of the selection over the rows and over the maxima of groups, counted by running it.

    All rows take part until the last of them is done.
    """
    queries, keys = features(kind, rows, n)
    found, counts = {"rows": 0, "maxima": 0}, selection._counts

    def counted(values, *others):
        of = "rows" if values.shape[1] == n else "maxima"
        jax.debug.callback(lambda: found.update({of: found[of] + 1}))
        return counts(values, *others)

    @jax.jit
    def run(queries, keys):
        s = similarity.similarities(queries, keys)
        return selection._search(s, jnp.full(rows, k), None, static_k=k, thresholds=thresholds)

    selection._counts = counted
    try:
        jax.block_until_ready(run(queries, keys))
        jax.effects_barrier()
    finally:
        selection._counts = counts
    return found


# Programs


def sketch(queries, keys, query_labels, key_labels, k):
    """LOOK in plain JAX: a mask by a multiway search over the bits of the similarities."""
    s = similarity.similarities(similarity.unit_vectors(queries), similarity.unit_vectors(keys))
    bits = jax.lax.bitcast_convert_type(jax.lax.stop_gradient(s), jnp.int32)
    bits = jnp.where(bits < 0, bits ^ jnp.int32(0x7FFFFFFF), bits)
    bits = bits.astype(jnp.uint32) ^ jnp.uint32(1 << 31)
    edge = jnp.zeros(len(s), jnp.uint32)
    for place in range(30, -1, -3):  # 33 bits, 3 in a pass
        steps = [jnp.uint32(i << place) for i in range(1, 8) if i << place < 2**32]
        reached = [jnp.sum(bits >= (edge + step)[:, None], axis=1) >= k for step in steps]
        edge += sum(x.astype(jnp.uint32) for x in reached) << place
    neighbors = bits >= edge[:, None]
    positives = neighbors & (query_labels[:, None] == key_labels[None, :])
    logits = s / 0.1
    total, same = (similarity.masked_logsumexp(logits, x) for x in (neighbors, positives))
    missing = ~jnp.any(positives, axis=1)
    purity = jnp.sum(positives, axis=1) / jnp.sum(neighbors, axis=1)
    return jnp.where(missing, 0.0, total - same), (missing, purity)


def compiled(form: str, size: tuple[int, int, int], keys: str, topology: str):
    """The program of value, statistics and gradient."""
    batch, n, k = size

    def total(queries, vectors, query_labels, key_labels, mask):
        if form == "sketch":
            losses, stats = sketch(queries, vectors, query_labels, key_labels, k)
        else:
            mask = mask if "masked" in keys else None
            losses, stats = look(
                queries, vectors, query_labels, key_labels, k=k, form=form, key_mask=mask
            )
        return jnp.mean(losses), stats

    where = {}
    if topology:
        where["sharding"] = SingleDeviceSharding(compiling.devices_of(topology)[0])
    shapes = [
        jax.ShapeDtypeStruct(shape, dtype, **where)
        for shape, dtype in (
            ((batch, DIM), jnp.float32),
            ((n, DIM), KEYS[keys]),
            ((batch,), jnp.int32),
            ((n,), jnp.int32),
            ((n,), bool),
        )
    ]
    traced = jax.jit(jax.value_and_grad(total, has_aux=True)).trace(*shapes)
    return traced.lower(lowering_platforms=("tpu" if topology else "cpu",)).compile()


def rows_of(form: str, size: tuple[int, int, int]) -> int:
    """Queries that are compared with all keys at a time."""
    batch, n, _ = size
    if form != "chunked":
        return batch
    return knn.rows_at_once(batch, knn.row_bytes(n, "thresholds"), knn.WORKSPACE)


def measure(form: str, size: tuple[int, int, int], keys: str, topology: str) -> dict:
    """Reads and writes in units of the similarities, temporaries, and the selection's passes."""
    batch, n, k = size
    platform = selection.TPU if topology else selection.CPU
    rows, thresholds = rows_of(form, size), platform.thresholds
    needed = {}
    if form in ("chunked", "dense"):
        needed = {kind: passes(kind, rows, n, k, thresholds) for kind in ("random", "clusters")}
    program = compiled(form, size, keys, topology)
    text, found = program.as_text(), {}
    for kind in needed or ("random",):

        def trips(once, kind=kind):
            # Some passes run before the first test whether all rows are done.
            of_rows = once[:2].sum() > 4 * rows * n / 2
            counted = needed.get(kind, {}).get("rows" if of_rows else "maxima", 1)
            return max(0, counted - (selection.UNCONDITIONAL if thresholds > 1 else 0))

        units = Program(text, trips).traffic() / (4 * batch * n)
        names = ("reads", "writes", "reads of keys", "writes of keys")
        found[kind] = dict(zip(names, (round(float(x), 2) for x in units), strict=True))
    return {
        "traffic": found,
        "passes": needed,
        "rows": rows,
        "temporaries_mb": program.memory_analysis().temp_size_in_bytes / 1e6,
    }


def markdown(found: list[dict]) -> str:
    """Table of the latest record of each program."""
    latest = {record["key"]: record for record in found}.values()
    lines = [
        "| compiler | form | batch | keys | k | passes | reads | writes | reads of keys | "
        "temporaries, MB |",
        "| --- | --- |" + " ---: |" * 8,
    ]

    def cell(record, name):
        values = [x[name] for x in record["traffic"].values()]
        return " / ".join(dict.fromkeys(f"{value:.1f}" for value in values))

    order = {form: i for i, form in enumerate(FORMS)}
    for r in sorted(
        latest, key=lambda r: (r["topology"], order[r["form"]], len(r["keys"]), *r["size"][1::-1])
    ):
        batch, n, k = r["size"]
        counts = " / ".join(dict.fromkeys(str(x["rows"]) for x in r["passes"].values()))
        form = r["form"] + (f", {r['keys']} keys" if r["keys"] else "")
        lines.append(
            f"| {'TPU' if r['topology'] else 'CPU'} | {form} | {batch:,} | {n:,} | {k} | {counts} "
            f"| {cell(r, 'reads')} | {cell(r, 'writes')} | {cell(r, 'reads of keys')} | "
            f"{r['temporaries_mb']:,.0f} |"
        )
    last = found[-1]
    lines.append(
        f"\nIn units of the similarities; with random keys / keys in clusters if these differ. jax "
        f"{last['packages']['jax']}, {last['date']}; nothing was timed."
    )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("forms", nargs="*", metavar="FORM", help=", ".join(FORMS))
    parser.add_argument("--topology", default="", help="of TPUs; default: the CPU's compiler")
    how = parser.parse_args()
    unknown = set(how.forms) - set(FORMS)
    if unknown:
        parser.error(f"unknown forms {sorted(unknown)}; there are {', '.join(FORMS)}")
    jax.config.update("jax_platforms", "cpu")
    # The TPU's compiler is quick with the least effort; with more, a program reads no more often.
    jax.config.update("jax_exec_time_optimization_effort", -1.0)
    known = {record["key"] for record in records.read(RECORDS)}
    for form in how.forms or FORMS:
        for size in gpu.SIZES:
            kinds = list(KEYS) if form == "chunked" and size == gpu.SIZES[-2] else [""]
            if form in ("dense", "sketch") and size[0] * size[1] > LARGEST:
                continue
            for keys in kinds:
                what = {"form": form, "size": list(size), "keys": keys, "topology": how.topology}
                key = records.key_of(what | {"benchmark": "neighbor_reads"})
                if key in known:
                    continue
                record = {"benchmark": "neighbor_reads", "key": key, **what}
                record |= measure(form, size, keys, how.topology) | records.surroundings()
                records.append(RECORDS, record)
                print(markdown([record]).splitlines()[2], flush=True)


if __name__ == "__main__":
    main()
