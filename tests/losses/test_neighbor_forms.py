"""LOOK and NCA, chunked and streamed: as dense, in bounded memory, over devices."""

import collections
import functools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
import rounding
from jax.sharding import PartitionSpec
from losses.neighbor_cases import BATCH, MEMORY, case, gaussian, masks, padded, tolerances

from jaxpt.losses import look, nca, neighbors
from jaxpt.ops import knn, selection

pytestmark = pytest.mark.usefixtures("unoptimised")

QUERIES, KEYS, DIM = 16, 304, 6
CPU = selection.CPU  # before it is patched
OF_CPU = pytest.mark.skipif(jax.default_backend() != "cpu", reason="a bound of CPU programs")


@pytest.fixture(autouse=True, scope="module")
def platform(request):
    """Several blocks and a shorter last one; the selection and the search of an accelerator."""
    of, search = getattr(request, "param", "TPU"), knn.search

    def as_on_a_gpu(*arrays, recall=None, **options):
        form = "groups" if recall is None else "auto"
        return search(*arrays, recall=recall, form=form, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(neighbors, "NCA_BLOCK", 50)
        patch.setattr(knn, "CONVERTED", 50 * DIM)  # masked keys in several parts
        patch.setattr(selection, "CPU", getattr(selection, of))
        patch.setattr(selection, "GROUPED", 256)
        if of == "GPU":
            patch.setattr(knn, "search", as_on_a_gpu)
        yield of


# All but "dense", with which they are compared.
OTHERS = {look: ("chunked", "gathered", "streamed"), nca: ("chunked", "streamed")}
ON_BOTH = pytest.mark.parametrize("platform", ["TPU", "GPU"], indirect=True)
WORKSPACE = 5 * 2 * 4 * KEYS  # five queries at a time: four chunks, the last one shorter


def example(seed, nan=False):
    """Arrays by name: queries without a positive near or anywhere; ids, mask."""
    rng = np.random.default_rng(seed)
    labels = rng.choice(9, QUERIES + KEYS, p=np.arange(1, 10) / 45)
    labels[0] = 10
    arrays = {
        "queries": rng.normal(size=(QUERIES, DIM)).astype(np.float32),
        "keys": rng.normal(size=(KEYS, DIM)).astype(np.float32),
        "query_labels": labels[:QUERIES],
        "key_labels": labels[QUERIES:],
        "query_ids": np.arange(QUERIES),
        "key_ids": rng.integers(40, size=KEYS),
        "key_mask": rng.random(KEYS) < 0.8,
    }
    if nan:
        arrays["keys"][~arrays["key_mask"]] = np.nan
    return arrays


def program(loss, form, **options):
    """arrays, temperature → (losses, stats, gradients of the weighted losses by both)."""

    def total(queries, temperature, rest):
        losses, stats = loss(
            queries, temperature=temperature, form=form, workspace=WORKSPACE, **rest, **options
        )
        return jnp.sum(losses * (1 + jnp.arange(losses.shape[0]))), (losses, stats)

    @jax.jit
    def run(arrays, temperature):
        rest = {name: x for name, x in arrays.items() if name != "queries"}
        gradients, found = jax.grad(total, (0, 1), has_aux=True)(
            arrays["queries"], temperature, rest
        )
        return *found, *gradients

    return run


# The terms of a gradient cancel: their absolute values add up to a few times its largest entry.
CANCELLATION = 8


def assert_same(one, other, temperature=0.3, largest=1.0):
    """Within the rounding of sums over keys in another order, at similarities up to ``largest``."""
    logit = rounding.of_product(DIM, largest) / temperature
    # A loss is the difference of two logarithms of sums.
    bound = 2 * rounding.of_log_sum(KEYS, logit)
    for x, y in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        scale = CANCELLATION * np.abs(y).max()
        np.testing.assert_allclose(x, y, rtol=0, atol=bound * max(1, scale))


@ON_BOTH
@pytest.mark.parametrize(
    "options",
    [
        {"k": 3, "no_positive": "nearest"},
        {"k": 3, "no_positive": "drop"},
        {"k": 3, "no_positive": "floor"},
        {"k": 40, "no_positive": "nearest", "normalize": False},
        {"k": 3, "no_positive": "nearest", "balanced": True, "robustness": 0.5},
        {"k": 2 * KEYS, "no_positive": "floor", "balanced": True},
    ],
)
def test_all_forms_of_look_agree(options):
    dense, *others = (program(look, form, **options) for form in ("dense", *OTHERS[look]))
    for seed in range(3):
        arrays = example(seed, nan=seed == 2)
        for other in others:
            assert_same(other(arrays, 0.3), dense(arrays, 0.3))


@ON_BOTH
@pytest.mark.parametrize("options", [{"k": 9, "gate": 4.0}, {"k": jnp.arange(3, QUERIES + 3)}])
def test_the_chunked_form_needs_no_bound_of_k_and_no_hard_edge(options):
    dense, chunked = (program(look, form, **options) for form in ("dense", "chunked"))
    for seed in range(3):
        arrays = example(seed, nan=seed == 2)
        assert_same(chunked(arrays, 0.3), dense(arrays, 0.3))


@pytest.mark.parametrize("normalize", [True, False])
def test_all_forms_of_nca_agree(normalize):
    dense, *others = (program(nca, form, normalize=normalize) for form in ("dense", *OTHERS[nca]))
    for seed in range(3):
        arrays = example(seed, nan=seed == 2)
        for temperature in 0.05, 1.0:
            expected, largest = dense(arrays, temperature), 1 if normalize else 30
            for other in others:
                assert_same(other(arrays, temperature), expected, temperature, largest)


@ON_BOTH
@pytest.mark.parametrize(
    "loss, options",
    [
        (look, {"k": 3, "no_positive": "nearest"}),
        (look, {"k": 3, "no_positive": "drop"}),
        (look, {"k": 3, "no_positive": "floor"}),
        (look, {"k": 40}),
        (look, {"k": 3, "balanced": True, "robustness": 0.5}),
        (nca, {}),
    ],
)
def test_gradients_of_all_forms_agree_to_a_hundred_thousandth_of_the_largest_entry(loss, options):
    forms = [program(loss, form, **options) for form in ("dense", *OTHERS[loss])]
    for seed in range(3):
        for temperature in 0.1, 0.3:
            expected, *others = (run(example(seed), temperature)[2] for run in forms)
            # The errors of many terms are as good as independent, so that they grow with the root
            # of their number (Higham and Mary 2019), where the certain bound has the number.
            products = rounding.of_product(DIM) / rounding.EPS / temperature**2
            likely = 2 * math.sqrt(KEYS + products) * rounding.EPS
            largest = np.abs(expected).max()
            for found in others:
                np.testing.assert_allclose(found, expected, rtol=0, atol=likely * largest)


def test_an_approximate_search_is_passed_on(monkeypatch):
    def first_half(values, k, *, recall_target):
        assert recall_target == 0.9
        half = jnp.where(jnp.arange(values.shape[1]) < KEYS // 2, values, -jnp.inf)
        return jax.lax.top_k(half, k)

    monkeypatch.setattr(jax.lax, "approx_max_k", first_half)
    arrays = example(6)
    found = program(look, "streamed", k=5, no_positive="drop", recall=0.9)(arrays, 0.3)
    arrays["key_mask"] = arrays["key_mask"] & (np.arange(KEYS) < KEYS // 2)
    assert_same(found, program(look, "dense", k=5, no_positive="drop")(arrays, 0.3))


@functools.partial(jax.jit, static_argnames=("loss", "form", "options", "platform"))
def with_oracle(arrays, loss, form, options, platform):
    del platform  # what is patched for one must not be kept for the other
    return loss(**arrays, form=form, workspace=2 * 2 * 4 * MEMORY, **dict(options))


@ON_BOTH
@pytest.mark.parametrize("name", ["ties", "zero vectors", "no positive", "huge", "tiny", "bf16"])
def test_hard_arrays_equal_the_oracle(name, platform):
    arrays, _ = case(name)
    for extra in {}, masks():
        for loss, no_positive in (look, "nearest"), (look, "floor"), (nca, None):
            options = {"k": 5, "no_positive": no_positive} if loss is look else {}
            static = tuple({name: x for name, x in options.items() if name != "k"}.items())
            bound = (("k_max", 5),) if loss is look else ()
            k = {"k": 5} if loss is look else {}
            expected, missing, purity = getattr(oracles, loss.__name__)(
                *arrays, temperature=0.2, **options, **extra
            )
            for form in OTHERS[loss]:
                losses, stats = with_oracle(
                    padded(*arrays, **k, **extra, temperature=0.2),
                    *(loss, form, static + bound, platform),
                )
                np.testing.assert_allclose(losses, expected, **tolerances(arrays, True, 0.2))
                np.testing.assert_allclose(
                    stats,
                    (missing.mean(), (losses == 0).mean(), purity.mean()),
                    rtol=rounding.FEW,
                    atol=rounding.FEW,
                )


@pytest.mark.parametrize("form", ["gathered", "streamed"])
@ON_BOTH
def test_a_traced_k_has_a_bound(form):
    arrays = gaussian(3)
    run = jax.jit(lambda k: look(*arrays, k=k, k_max=9, form=form)[0])
    for k in 1, 9, np.arange(1, BATCH + 1):
        np.testing.assert_allclose(run(k), oracles.look(*arrays, k=k)[0], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(run(20), oracles.look(*arrays, k=9)[0], rtol=1e-5, atol=1e-5)


@ON_BOTH
def test_queries_that_where_leaves_out_have_neither_loss_nor_gradient():
    arrays, where = example(4), np.arange(QUERIES) % 3 > 0
    arrays["queries"][~where] = np.nan
    for loss, options in (look, {"k": 3}), (nca, {}):
        dense = program(loss, "dense", where=where, **options)(arrays, 0.1)
        for form in OTHERS[loss]:
            losses, stats, gradient, _ = program(loss, form, where=where, **options)(arrays, 0.1)
            assert not losses[~where].any() and not gradient[~where].any()
            assert_same((losses, stats, gradient), dense[:3], temperature=0.1)


@ON_BOTH
@pytest.mark.parametrize("loss, options", [(look, {"k": 3}), (nca, {})])
def test_a_query_that_is_not_a_number_has_no_loss_of_zero(loss, options):
    arrays = example(6)
    clean = program(loss, "streamed", **options)(arrays, 0.1)[0]
    arrays["queries"] = arrays["queries"].copy()  # JAX may still read the other
    arrays["queries"][5] = np.nan
    for form in "dense", *OTHERS[loss]:
        losses = program(loss, form, **options)(arrays, 0.1)[0]
        assert np.isnan(losses[5])
        assert_same(np.delete(losses, 5), np.delete(clean, 5), temperature=0.1)


@ON_BOTH
@pytest.mark.parametrize("loss, options", [(look, {"k": 3}), (nca, {})])
def test_an_empty_memory_teaches_nothing(loss, options):
    arrays = example(5) | {"key_mask": np.zeros(KEYS, bool)}
    for form in OTHERS[loss]:
        losses, stats, gradient, _ = program(loss, form, **options)(arrays, 0.1)
        np.testing.assert_array_equal(losses, 0)
        np.testing.assert_array_equal(stats, (1, 1, 0))
        np.testing.assert_array_equal(gradient, 0)


# Over devices


@ON_BOTH
@pytest.mark.parametrize("shards", [1, 2, 8])
@pytest.mark.parametrize(
    "loss, options",
    [(look, {"k": 4, "no_positive": "nearest", "balanced": True}), (look, {"k": 4}), (nca, {})],
)
def test_keys_on_several_devices_give_the_same(loss, options, shards):
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:shards]), ("shard",))
    rows, everywhere = PartitionSpec("shard"), PartitionSpec()

    def of_device(arrays):
        def total(queries):
            losses, stats = loss(
                **arrays | {"queries": queries},
                form="streamed",
                axis_name="shard",
                temperature=0.3,
                **options,
            )
            return jnp.sum(losses), (losses, jax.lax.pmean(stats, "shard"))

        gradient, (losses, stats) = jax.grad(total, has_aux=True)(arrays["queries"])
        return gradient, losses, stats

    sharded = jax.jit(
        jax.shard_map(
            of_device, mesh=mesh, in_specs=rows, out_specs=(rows, rows, everywhere), check_vma=False
        )
    )

    @jax.jit
    def whole(arrays):
        def total(queries):
            losses, stats = loss(
                **arrays | {"queries": queries}, form="dense", temperature=0.3, **options
            )
            return jnp.sum(losses), (losses, stats)

        gradient, found = jax.grad(total, has_aux=True)(arrays["queries"])
        return gradient, *found

    for seed in range(2):
        arrays = example(seed)
        assert_same(sharded(arrays), whole(arrays))


# Memory and choice of form


@OF_CPU
@pytest.mark.parametrize(
    "loss, options",
    [(look, {"k": 10, "balanced": False}), (look, {"k": 10, "no_positive": "drop"}), (nca, {})],
)
def test_temporaries_do_not_grow_with_the_memory(loss, options):
    def temporaries(n):
        def total(q, z, a, b):
            return loss(q, z, a, b, **options)[0].sum()

        arrays = (
            jax.ShapeDtypeStruct(*x)
            for x in (
                ((16, 8), jnp.float32),
                ((n, 8), jnp.float32),
                ((16,), jnp.int32),
                ((n,), jnp.int32),
            )
        )
        compiled = jax.jit(jax.grad(total)).lower(*arrays).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    few, many = temporaries(4 * 2**17 + 5), temporaries(8 * 2**17 + 5)
    # Where each of NCA's tiny blocks begins is all that grows.
    assert many - few <= 0.1 * 4 * 2**17 and many < 4 * 16 * 2**17


@OF_CPU
@pytest.mark.parametrize("form", ["chunked", "gathered"])
def test_the_forms_in_chunks_keep_to_their_workspace(form, monkeypatch):
    monkeypatch.setattr(knn, "CONVERTED", 2**16)
    n = 2**16
    workspace = 4 * knn.row_bytes(
        n, {"chunked": "thresholds", "gathered": "groups"}[form]
    )  # four queries at a time

    def total(q, z, a, b, mask):
        options = {"key_mask": mask, "form": form, "workspace": workspace}
        return look(q, z, a, b, k=10, **options)[0].sum()

    floats, ints = (((64, 64), jnp.float32), ((n, 64), jnp.float32)), (((64,), int), ((n,), int))
    shapes = (jax.ShapeDtypeStruct(*x) for x in (*floats, *ints, ((n,), bool)))
    compiled = jax.jit(jax.grad(total)).lower(*shapes).compile()
    # A few arrays of [4, n], also for the ties that are rare; no matrix of [64, n], and no copy of
    # the keys without the masked ones.
    assert compiled.memory_analysis().temp_size_in_bytes < 6 * workspace < 4 * 64 * n


@pytest.fixture
def forms(monkeypatch):
    """(loss, batch, memory, …) → (form on CPUs, on GPUs, on TPUs)."""

    class Chosen(Exception):
        pass

    def choose(forms, *_):
        raise Chosen(*forms)

    def chosen(loss, batch, memory, k=None, gate=None, devices=0, **options):
        """k is traced if it is None; ``memory`` is that of each device, 0 devices are no axis."""
        if loss is look:
            options |= {"k": jnp.int32(3) if k is None else k, "gate": gate}
        shapes = ((batch, 2), jnp.float32), ((memory, 2), jnp.float32), ((batch,), int)
        shapes = (*shapes, ((memory,), int))
        shapes = (jax.ShapeDtypeStruct((max(devices, 1), *x), y) for x, y in shapes)
        options["axis_name"] = "shard" if devices else None
        call = jax.vmap(lambda *a: loss(*a, **options)[0], axis_name="shard")
        with pytest.raises(Chosen) as found:
            jax.eval_shape(call, *shapes)
        return found.value.args

    monkeypatch.setattr(neighbors, "_in_form", choose)
    return chosen


def test_the_form_goes_by_shapes_and_platform(forms):
    dense, few = ("dense",) * 3, ("streamed", "gathered", "chunked")
    # Where nearly all keys are neighbours, or matrices are small, a CPU is dense.
    many, neither = ("dense", "chunked", "chunked"), ("streamed", "chunked", "chunked")
    assert forms(look, 4, 2048, k=3) == dense and forms(look, 4, 2049, k=3) == few
    assert forms(look, 4, 4001, k=100) == neither and forms(look, 4, 4000, k=100) == many
    # A larger matrix only where nearly all keys are neighbours.
    assert forms(look, 2**12, 2**12 + 1, k=2**9) == neither
    assert forms(look, 2**12, 2**12 + 1, k=2**9 + 1) == many
    assert forms(look, 2**10, 2**18 + 1, k=2**17) == neither  # the matrix would be too large
    # GPUs gather few of many keys, whatever the batch.
    share = neighbors.GATHERED_SHARE
    for batch in 1, 2**20:
        assert forms(look, batch, 50 * share, k=50) == few
        assert forms(look, batch, 50 * share - 1, k=50) == neither
    assert forms(look, 2**20, 2**18, k=None, k_max=10) == few  # a bound is enough
    # A traced k without a bound, and a gate, need all similarities.
    assert forms(look, 4, 4000, k=None) == forms(look, 4, 4000, k=3, gate=2.0) == many
    assert forms(look, 7, 2**26, k=None) == forms(look, 7, 2**26, 3, 2.0) == ("chunked",) * 3
    # Keys of several devices, and of one.
    assert forms(look, 4, 4001, k=3, devices=2) == ("streamed",) * 3
    assert forms(look, 2**12, 2**12 + 1, k=2**9, devices=2) == ("streamed",) * 3
    assert forms(look, 4, 4001, devices=2) == many
    assert forms(look, 4, 4001, k=3, devices=1) == forms(look, 4, 4001, k=3) == few


def test_nca_has_nothing_to_sort_so_gpus_do_as_tpus(forms):
    assert forms(nca, 4, 2048) == ("dense",) * 3
    for batch, memory in (4, 2049), (4, 2**20), (2**12, 2**18):
        assert forms(nca, batch, memory) == ("streamed", "chunked", "chunked")
        assert forms(nca, batch, memory, devices=2) == ("streamed",) * 3
        assert forms(nca, batch, memory, devices=1) == forms(nca, batch, memory)


@pytest.mark.parametrize("form", neighbors.NEIGHBOR_FORMS[1:])
def test_a_form_may_be_asked_for(form):
    arrays = {name: x for name, x in example(0).items() if name != "key_mask"}
    traced = jax.jit(lambda arrays: look(**arrays, k=3, form=form)[0]).trace(arrays)
    assert ("custom_vjp" in str(traced.jaxpr)) == (form != "dense")
    text = traced.lower(lowering_platforms=("cpu",)).as_text()
    assert ("top_k" in text) == (form in ("gathered", "streamed"))


def operations(loss, platform, batch=4, **options):
    """How often each is in the program of the gradient, but for those that choose a platform."""
    n = neighbors.DENSE_MEMORY + 1

    def total(q, z, a, b):
        return loss(q, z, a, b, **options)[0].sum()

    shapes = ((batch, 8), jnp.float32), ((n, 8), jnp.float32), ((batch,), int), ((n,), int)
    traced = jax.jit(jax.grad(total)).trace(*(jax.ShapeDtypeStruct(*x) for x in shapes))
    text = traced.lower(lowering_platforms=(platform,)).as_text()
    counts = collections.Counter(re.findall(r"(?:stablehlo|chlo)\.(\w+)", text))
    # Thresholds of one pass: one on CPUs, seven on accelerators.
    counts["thresholds"] = len(re.findall(rf"tensor<{batch}x[17]xui32>", text))
    counts["seven thresholds"] = len(re.findall(rf"tensor<{batch}x7xui32>", text))
    for part in "case", "return", "constant", "broadcast_in_dim":  # and zeros of other platforms
        del counts[part]
    return counts


@pytest.mark.parametrize(
    "batch, k, expected",
    [
        (4, 3, ("streamed", "gathered", "chunked")),
        (4, 300, ("dense", "chunked", "chunked")),
        (2**12, 300, ("dense", "chunked", "chunked")),
    ],
)
def test_the_program_for_a_platform_holds_its_form_alone(batch, k, expected, monkeypatch):
    monkeypatch.setattr(selection, "CPU", CPU)
    for name, form in zip(("cpu", "cuda", "tpu"), expected, strict=True):
        found = operations(look, name, batch, k=k)
        for other in neighbors.NEIGHBOR_FORMS[1:]:
            same = operations(look, name, batch, k=k, form=other) == found
            assert same == (other == form)
        small = selection.sorting_pays((batch, neighbors.DENSE_MEMORY + 1), k)
        sorts = form in ("gathered", "streamed") or (name == "cuda" and small)
        assert (found["top_k"] > 0) == (found["sort"] > 0) == sorts
        assert (found["thresholds"] > 0) == (not sorts)
        assert (found["seven thresholds"] > 0) == (not sorts and name != "cpu")


def test_all_forms_sort_on_gpus_where_it_pays_and_none_where_k_is_traced(monkeypatch):
    monkeypatch.setattr(selection, "CPU", CPU)
    for form in neighbors.NEIGHBOR_FORMS[1:]:
        found = operations(look, "cuda", k=3, form=form)
        assert found["top_k"] and found["sort"] and not found["thresholds"]
    for name in "cpu", "cuda", "tpu":
        found = operations(look, name, k=jnp.int32(3))
        assert not found["top_k"] and not found["sort"] and found["thresholds"]
        assert (found["seven thresholds"] > 0) == (name != "cpu")
        found = operations(nca, name)
        assert not found["top_k"] and not found["sort"] and not found["thresholds"]


@pytest.mark.parametrize(
    "options, message",
    [
        ({"form": "sparse"}, f"form must be one of {neighbors.NEIGHBOR_FORMS}, got 'sparse'"),
        ({"form": "streamed", "gate": 1.0}, "gate weighs every key: it needs form"),
        ({"form": "gathered", "gate": 1.0}, "gate weighs every key: it needs form"),
        ({"form": "streamed", "k": jnp.int32(3)}, '"streamed" with a traced k needs k_max'),
        ({"form": "gathered", "k": jnp.int32(3)}, '"gathered" with a traced k needs k_max'),
        ({"recall": 1.5}, "recall must lie between 0 and 1, or be None for exact, got 1.5"),
        ({"k": 3, "k_max": 0}, "k_max must be a whole number of at least 1, got 0"),
        ({"workspace": 0}, "workspace must be a number of bytes, at least 1, got 0"),
    ],
)
def test_a_form_that_cannot_be_is_named(options, message):
    n = options.pop("keys", MEMORY)
    shapes = (
        jax.ShapeDtypeStruct((BATCH, 2), jnp.float32),
        jax.ShapeDtypeStruct((n, 2), jnp.float32),
        jax.ShapeDtypeStruct((BATCH,), int),
        jax.ShapeDtypeStruct((n,), int),
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        jax.eval_shape(lambda *a: look(*a, **{"k": 3} | options)[0], *shapes)


def test_nca_gathers_nothing():
    with pytest.raises(ValueError, match="nca compares all keys: it needs form"):
        nca(*gaussian(3), form="gathered")
