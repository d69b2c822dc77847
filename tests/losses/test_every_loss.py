"""What holds of every loss; how each is called stands in calls.py."""

import dataclasses
import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.extend.core import jaxprs_in_params
from jax.sharding import PartitionSpec as P
from jax.test_util import check_grads
from losses import calls
from losses.calls import LOSSES, Case

import jaxpt.losses

DEVICES = 8
EVERY = pytest.mark.parametrize("name", LOSSES)
# One of each kind: a memory, a batch, statistics of a batch, many views. What every loss shares is
# checked for all of them in one way, and for these in the others.
KINDS = ("look", "sup_con", "barlow_twins", "dino")


def every_and_kinds(first, *others):
    """Each loss with the first value, and one loss of each kind with the others."""
    return [(name, first) for name in LOSSES] + [(name, x) for x in others for name in KINDS]


NORMALIZING = [
    name for name, call in LOSSES.items() if "normalize" in inspect.signature(call.loss).parameters
]
NOT_LOSSES = {"move_centre", "reverse_gradient"}


def evaluate(call, arrays, temperature, **options):
    temperatures = dict.fromkeys(call.temperatures, temperature)
    return call.loss(**arrays, **temperatures, **call.options, **options)


def with_gradients(call, arrays, temperature, weights, **options):
    """(values, gradients by name) of the values' sum, each with a weight of its own."""

    def total(floats):
        values = evaluate(call, arrays | floats, temperature, **options)
        return jnp.sum(values * weights), values

    gradients, values = jax.grad(total, has_aux=True)({name: arrays[name] for name in call.floats})
    return values, gradients


@functools.partial(jax.jit, static_argnames="name")
def program(name, arrays, temperature, weights):
    return with_gradients(LOSSES[name], arrays, temperature, weights)


def weights_of(call, rows=calls.SIZES["b"]):
    return np.linspace(0.5, 1.5, rows, dtype=np.float32) if call.per_example else np.float32(1)


def run(name, arrays, temperature=0.5, weights=None):
    """(values, gradients by name), by one program for each loss and shape of its arrays."""
    weights = weights_of(LOSSES[name]) if weights is None else weights
    return jax.tree.map(np.asarray, program(name, arrays, np.float32(temperature), weights))


def rng(*seed):
    return np.random.default_rng(seed)


def test_every_loss_is_called_here():
    called = {call.loss.__name__ for call in LOSSES.values()}
    assert called == {name for name in jaxpt.losses.__all__ if name.islower()} - NOT_LOSSES


# Values and gradients


@EVERY
@given(
    seed=st.integers(0, 2**32 - 1),
    temperature=st.sampled_from([1e-3, 0.05, 0.5, 1e3]),
    case=st.builds(Case, *map(st.sampled_from, calls.CHOICES)),
)
@settings(derandomize=True, deadline=None, database=None, max_examples=150)
def test_values_are_the_oracles_and_all_is_finite_whatever_comes(name, seed, temperature, case):
    call = LOSSES[name]
    arrays = calls.draw(call, rng(seed), case)
    values, gradients = run(name, arrays, temperature)
    np.testing.assert_allclose(
        values,
        calls.expected(call, arrays, np.float32(temperature)),
        **calls.tolerance(call, temperature),
    )
    assert values.dtype == np.float32
    for float_name, gradient in gradients.items():
        assert np.isfinite(gradient).all(), float_name
        if float_name in call.targets:
            assert not gradient.any(), float_name
        elif "b" in calls.AXES[float_name]:
            assert not calls.cut(float_name, gradient, ~arrays["where"]).any(), float_name


@EVERY
def test_gradients_are_the_oracles_slope(name):
    call = LOSSES[name]
    for seed in range(3):
        arrays = calls.draw(call, rng(1, seed))
        _, gradients = run(name, arrays)
        for float_name in call.online:

            def total(x):
                values = calls.expected(call, arrays | {float_name: x}, 0.5)
                return np.sum(weights_of(call) * values)

            assert gradients[float_name].any()
            direction = rng(2, seed).normal(size=arrays[float_name].shape)
            slope = oracles.slope(total, arrays[float_name], direction)
            np.testing.assert_allclose(
                np.sum(gradients[float_name] * direction), slope, rtol=1e-3, atol=1e-4
            )


@pytest.mark.parametrize("name", KINDS)  # of all others the test above has a slope
def test_gradients_pass_jaxs_own_check(name):
    call = LOSSES[name]
    arrays = calls.draw(call, rng(3))
    online = {name: jnp.asarray(arrays[name]) for name in call.online}
    loss = jax.jit(lambda online: evaluate(call, arrays | online, 1.0))
    check_grads(loss, (online,), order=1, modes=("rev",), atol=2e-2, rtol=2e-2)


@pytest.mark.parametrize(("name", "kept"), every_and_kinds(5, 1))
def test_rows_that_are_masked_might_as_well_be_absent_even_where_they_are_nan(name, kept):
    call = LOSSES[name]
    arrays = calls.draw(call, rng(4), Case(key_mask="some"))
    arrays["where"] = where = rng(5).permutation(np.arange(calls.SIZES["b"]) < kept)
    few = {key: calls.cut(key, x, where) for key, x in arrays.items()}
    weights = weights_of(call)
    few_values, few_gradients = run(
        name, few, weights=weights[where] if call.per_example else weights
    )
    for float_name in call.floats:
        for letter, mask in ("b", "where"), ("m", "key_mask"):
            if letter in calls.AXES[float_name] and mask in arrays:
                np.moveaxis(arrays[float_name], calls.AXES[float_name].index(letter), 0)[
                    ~arrays[mask]
                ] = np.nan
    values, gradients = run(name, arrays)
    if call.per_example:
        assert not values[~where].any()
        values = values[where]
    np.testing.assert_allclose(values, few_values, rtol=1e-5, atol=1e-5)
    for float_name, gradient in gradients.items():
        np.testing.assert_allclose(
            calls.cut(float_name, gradient, where), few_gradients[float_name], rtol=1e-4, atol=1e-5
        )
        if "b" in calls.AXES[float_name]:
            assert not calls.cut(float_name, gradient, ~where).any()


@pytest.mark.parametrize(("name", "dtype"), every_and_kinds(jnp.bfloat16, jnp.float16))
def test_float32_comes_out_whatever_the_dtype_of_the_embeddings(name, dtype, request):
    if dtype == jnp.float16:
        request.getfixturevalue("float16")
    call = LOSSES[name]
    arrays = calls.draw(call, rng(6))
    arrays |= {float_name: arrays[float_name].astype(dtype) for float_name in call.floats}
    values = jax.jit(lambda arrays: evaluate(call, arrays, 0.1))(arrays)
    assert values.dtype == jnp.float32
    np.testing.assert_allclose(
        values, calls.expected(call, arrays, 0.1), **calls.tolerance(call, 0.1)
    )


@pytest.mark.parametrize("name", NORMALIZING)
def test_unnormalised_rows_are_compared_by_their_inner_products(name):
    call = LOSSES[name]
    arrays = calls.draw(call, rng(7))
    for float_name in call.floats:
        arrays[float_name] *= 3
    values = jax.jit(lambda arrays: evaluate(call, arrays, 0.5, normalize=False))(arrays)
    expected = calls.expected(call, arrays, 0.5, normalize=False)
    np.testing.assert_allclose(values, expected, rtol=1e-5, atol=1e-4)
    assert not np.allclose(values, calls.expected(call, arrays, 0.5), rtol=0.1)


# Arguments


@EVERY
def test_integers_for_embeddings_are_refused(name):
    call = LOSSES[name]
    arrays = calls.draw(call, rng(8))
    for float_name in call.floats:
        wrong = arrays | {float_name: arrays[float_name].astype(np.int32)}
        with pytest.raises(TypeError, match=f"{float_name} must be floating point"):
            jax.eval_shape(lambda: evaluate(call, wrong, 0.5))


@EVERY
def test_arrays_of_another_number_of_rows_are_refused(name):
    call = LOSSES[name]
    arrays = calls.draw(call, rng(9))
    for array, axis in ((x, calls.AXES[x].find(letter)) for x in arrays for letter in "bm"):
        if axis < 0:
            continue
        wrong = arrays | {array: np.concatenate([arrays[array]] * 2, axis=axis)}
        with pytest.raises(ValueError, match="must have|have dimension|must be"):
            jax.eval_shape(lambda: evaluate(call, wrong, 0.5))


@EVERY
@pytest.mark.parametrize("temperature", [0, -0.1])
def test_temperatures_that_are_not_positive_are_refused(name, temperature):
    call = LOSSES[name]
    arrays = calls.draw(call, rng(10))
    for wrong in call.temperatures:
        temperatures = dict.fromkeys(call.temperatures, 0.5) | {wrong: temperature}
        with pytest.raises(ValueError, match=f"temperature must be positive, got {temperature}"):
            jax.eval_shape(lambda: call.loss(**arrays, **temperatures, **call.options))


# Memory and precision


def equations(jaxpr):
    for equation in jaxpr.eqns:
        yield equation
        for inner in jaxprs_in_params(equation.params):
            yield from equations(inner)


@EVERY
def test_no_temporary_is_larger_than_the_similarities_and_products_are_exact(name):
    call, sizes = LOSSES[name], {"b": 32, "m": 64, "d": 16, "c": 20, "v": 4, "t": 2}
    arrays = calls.draw(call, rng(11), sizes=sizes)
    arrays |= {float_name: arrays[float_name].astype(jnp.bfloat16) for float_name in call.floats}
    weights = weights_of(call, sizes["b"])
    limit = sizes["b"] * (sizes["b"] + sizes["m"] + 1)
    for options in ({}, {"normalize": False}) if name in NORMALIZING else ({},):
        program = jax.make_jaxpr(
            lambda arrays: with_gradients(call, arrays, 0.5, weights, **options)
        )(arrays)
        for equation in equations(program.jaxpr):
            assert all(variable.aval.size <= limit for variable in equation.outvars), equation
            if equation.primitive.name == "dot_general":
                assert equation.params["precision"] == (jax.lax.Precision.HIGHEST,) * 2
                assert equation.outvars[0].aval.dtype == jnp.float32


@EVERY
def test_64_bits_change_nothing(name):
    """JAX's own defaults are then wider, but not what a loss makes of float32 and int32."""
    call = LOSSES[name]
    arrays = calls.draw(call, rng(12))
    expected = run(name, arrays)
    with jax.enable_x64(True):
        found = with_gradients(call, arrays, np.float32(0.5), weights_of(call))
    for x, y in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert x.dtype == np.float32
        np.testing.assert_allclose(x, y, **calls.tolerance(call, 0.5))


@EVERY
def test_labels_may_have_8_bits_though_there_are_more_classes(name):
    call, sizes = LOSSES[name], {**calls.SIZES, "m": 300, "c": 300}
    if "classes" in call.options:
        call = dataclasses.replace(call, options=call.options | {"classes": 300})
    arrays = calls.draw(call, rng(13), sizes=sizes)
    labels = {key: 200 + x for key, x in arrays.items() if key.endswith("labels")}
    narrow = {key: x.astype(np.uint8) for key, x in labels.items()}
    expected = evaluate(call, arrays | labels, 0.5)
    for kind in np.asarray, jnp.asarray:
        found = evaluate(call, arrays | jax.tree.map(kind, narrow), 0.5)
        np.testing.assert_array_equal(found, expected)
    assert np.isfinite(expected).all()


# Devices


def shards(name, array, split):
    """[devices, …]: an array's parts along an axis that is split, or as many copies of it."""
    axis = next((i for i, letter in enumerate(calls.AXES[name]) if letter in split), None)
    return np.stack([array] * DEVICES if axis is None else np.split(array, DEVICES, axis))


def whole(name, stacked, split):
    """The reverse; copies are added up."""
    axis = next((i for i, letter in enumerate(calls.AXES[name]) if letter in split), None)
    return stacked.sum(axis=0) if axis is None else np.concatenate(stacked, axis)


def mapped(mapping, function, mesh):
    """A function of one device's part, over stacked parts."""
    if mapping == "vmap":
        return jax.jit(jax.vmap(function, axis_name="shard"))
    if mapping == "pmap":
        return jax.pmap(function, axis_name="shard")

    def one(*stacked):
        return jax.tree.map(lambda x: x[None], function(*jax.tree.map(lambda x: x[0], stacked)))

    # Unchecked, as jaxpt's own training step is: gradients of sums are then as under pmap.
    return jax.jit(
        jax.shard_map(one, mesh=mesh, in_specs=P("shard"), out_specs=P("shard"), check_vma=False)
    )


SPLIT = [name for name, call in LOSSES.items() if call.split]


@pytest.mark.parametrize(
    ("name", "mapping"),
    [pair for pair in every_and_kinds("shard_map", "pmap", "vmap") if pair[0] in SPLIT],
)
def test_eight_devices_give_values_and_gradients_of_the_full_batch(name, mapping, mesh):
    call = LOSSES[name]
    arrays = calls.draw(call, rng(12))
    values, gradients = run(name, arrays)
    parts = {key: shards(key, x, call.split) for key, x in arrays.items()}
    weights = np.stack(
        np.broadcast_to(weights_of(call), (DEVICES,))
        if not call.per_example
        else np.split(weights_of(call), DEVICES)
    )

    def local(parts, weights):
        return with_gradients(call, parts, 0.5, weights, axis_name="shard")

    sharded, sharded_gradients = mapped(mapping, local, mesh)(parts, weights)
    if call.per_example:
        sharded = sharded.reshape(-1)
    else:  # every device has the value of all, and callers average the gradients
        sharded_gradients = jax.tree.map(lambda x: x / DEVICES, sharded_gradients)
        values = np.broadcast_to(values, DEVICES)
    np.testing.assert_allclose(sharded, values, rtol=1e-5, atol=1e-5)
    for key, gradient in gradients.items():
        np.testing.assert_allclose(
            whole(key, np.asarray(sharded_gradients[key]), call.split),
            gradient,
            rtol=1e-4,
            atol=1e-5,
        )


@pytest.mark.parametrize("name", SPLIT)
def test_shard_map_may_track_what_varies(name, mesh):
    """JAX's default; the mean of the loss is differentiated then. Neighbours refuse it."""
    call = LOSSES[name]
    arrays = calls.draw(call, rng(14))
    layers = {
        key: np.eye(n, dtype=np.float32) + rng(15).normal(0, 0.1, (n, n)).astype(np.float32)
        for key, n in ((key, arrays[key].shape[-1]) for key in call.floats)
    }

    def mean(layers, arrays, **options):
        floats = {key: arrays[key] @ layer for key, layer in layers.items()}
        return jnp.mean(evaluate(call, arrays | floats, 0.5, **options))

    def of_device(layers, parts):
        parts = jax.tree.map(lambda x: x[0], parts)
        return jax.grad(
            lambda layers: jax.lax.pmean(mean(layers, parts, axis_name="shard"), "shard")
        )(layers)

    step = jax.shard_map(of_device, mesh=mesh, in_specs=(P(), P("shard")), out_specs=P())
    parts = {key: shards(key, x, call.split) for key, x in arrays.items()}
    if call.loss.__name__ in ("look", "nca"):
        with pytest.raises(ValueError, match=r"needs jax.shard_map\(…, check_vma=False\)"):
            step(layers, parts)
        return
    found, expected = jax.jit(step)(layers, parts), jax.jit(jax.grad(mean))(layers, arrays)
    close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5)
    jax.tree.map(close, found, expected)


@pytest.mark.parametrize("name", SPLIT)
def test_devices_that_do_not_gather_give_something_else(name):
    call = LOSSES[name]
    arrays = calls.draw(call, rng(12))
    parts = {key: shards(key, x, call.split) for key, x in arrays.items()}
    alone = jax.jit(jax.vmap(lambda parts: evaluate(call, parts, 0.5)))(parts)
    assert not np.allclose(alone.reshape(-1), run(name, arrays)[0], rtol=0.05)


@EVERY
def test_arrays_that_would_be_misread_are_refused(name):
    call = LOSSES[name]
    arrays = calls.draw(call, np.random.default_rng(0))
    for changed in (n for n in call.names if n in arrays):
        if changed in call.floats:
            wrong, message = [arrays[changed].tolist()], "must be an array, got a list"
        elif changed in ("where", "key_mask"):
            wrong, message = [np.ones(arrays[changed].shape)], "must be booleans, got dtype float"
        else:
            wrong, message = [arrays[changed] + 0.5], "must be integers, got dtype float"
        with pytest.raises(TypeError, match=f"{changed} {message}"):
            evaluate(call, arrays | {changed: wrong[0]}, 0.5)
