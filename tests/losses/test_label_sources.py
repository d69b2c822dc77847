"""Losses within the sources of several: as on each source by itself."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpt.losses import cross_entropy, look, nca, neighbors, sup_con
from jaxpt.ops import knn

pytestmark = pytest.mark.usefixtures("unoptimised")

SOURCES = np.array([1, 0, 0, 1, 2])  # of five classes, not one after the other
BATCH, MEMORY, DIM, SHARDS = 16, 80, 6, 4


@pytest.fixture(autouse=True, scope="module")
def small_blocks():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(neighbors, "NCA_BLOCK", 30)
        yield


def arrays_of(seed=0):
    rng = np.random.default_rng(seed)
    return {
        "queries": rng.normal(size=(BATCH, DIM)).astype(np.float32),
        "keys": rng.normal(size=(MEMORY, DIM)).astype(np.float32),
        "query_labels": rng.integers(5, size=BATCH),
        "key_labels": np.where(np.arange(MEMORY) < 2, -1, rng.integers(5, size=MEMORY)),
        "query_ids": np.arange(BATCH),
        "key_ids": rng.integers(40, size=MEMORY),
        "key_mask": (np.arange(MEMORY) >= 2) & (rng.random(MEMORY) < 0.9),
    }


@functools.partial(jax.jit, static_argnums=0)
def with_gradient(loss, arrays):
    """Losses, and the gradient of their weighted sum by the queries."""

    def total(queries):
        losses = loss(**arrays | {"queries": queries})
        losses = losses[0] if isinstance(losses, tuple) else losses
        return jnp.sum(losses * (1 + jnp.arange(len(losses)))), losses

    gradient, losses = jax.grad(total, has_aux=True)(arrays["queries"])
    return losses, gradient


ONE = np.zeros_like(SOURCES)  # a single source, which is none: one program serves all tests


def each_alone(loss, arrays):
    """The same of one source at a time: its queries, with its keys alone."""
    of_queries, of_keys = SOURCES[arrays["query_labels"]], SOURCES[arrays["key_labels"]]
    arrays = arrays | {"label_sources": ONE}
    found = [
        with_gradient(
            loss,
            arrays | {"where": of_queries == i, "key_mask": arrays["key_mask"] & (of_keys == i)},
        )
        for i in range(3)
    ]
    return [sum(map(np.asarray, parts)) for parts in zip(*found)]


FORMS = ("dense", "chunked", "streamed")
LOSSES = {
    **{f"look_{form}": functools.partial(look, k=5, form=form, workspace=3_000) for form in FORMS},
    "look_extended": functools.partial(look, k=3, gate=5.0, no_positive="floor", balanced=True),
    **{f"nca_{form}": functools.partial(nca, form=form, workspace=3_000) for form in FORMS},
}


@pytest.mark.parametrize("name", LOSSES)
def test_neighbours_are_of_the_querys_source(name):
    arrays = arrays_of() | {"where": np.ones(BATCH, bool)}
    found = with_gradient(LOSSES[name], arrays | {"label_sources": SOURCES})
    for one, other in zip(found, each_alone(LOSSES[name], arrays)):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
    everyone, _ = with_gradient(LOSSES[name], arrays | {"label_sources": ONE})
    assert np.abs(found[0] - everyone).max() > 0.01  # without it they are not


@pytest.mark.parametrize("name", ["look_dense", "look_streamed", "nca_streamed", "sup_con"])
def test_keys_of_all_devices_are_compared(name):
    arrays = arrays_of(1)
    if name == "sup_con":
        loss = functools.partial(sup_con, label_sources=SOURCES)
        arrays = {"embeddings": arrays["queries"], "labels": arrays["query_labels"]}
    else:
        loss = functools.partial(LOSSES[name], label_sources=SOURCES)

    def losses_of(arrays, **options):
        found = loss(**arrays, **options)
        return found[0] if isinstance(found, tuple) else found

    parts = {name: x.reshape(SHARDS, -1, *x.shape[1:]) for name, x in arrays.items()}
    of_each = jax.vmap(functools.partial(losses_of, axis_name="shard"), axis_name="shard")
    split, whole = jax.jit(of_each)(parts), jax.jit(losses_of)(arrays)
    np.testing.assert_allclose(split.reshape(-1), whole, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("form", ["out", "in"])
@pytest.mark.parametrize("memory", [True, False])
def test_sup_con_contrasts_within_the_source(form, memory):
    arrays = arrays_of(2)
    arrays |= {"ids": arrays.pop("query_ids"), "labels": arrays.pop("query_labels")}
    if not memory:
        arrays = {name: x for name, x in arrays.items() if name in ("queries", "labels")}

    def loss(queries, **rest):
        return sup_con(queries, form=form, **rest)

    found = with_gradient(loss, arrays | {"label_sources": SOURCES})
    alone = []
    for i in range(3):
        own = {"where": SOURCES[arrays["labels"]] == i}
        if memory:
            own["key_mask"] = arrays["key_mask"] & (SOURCES[arrays["key_labels"]] == i)
        alone.append(with_gradient(loss, arrays | own))
    for one, other in zip(found, zip(*alone)):
        np.testing.assert_allclose(one, sum(map(np.asarray, other)), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_each_source_has_a_softmax_of_its_own(smoothing):
    rng = np.random.default_rng(3)
    logits, labels = rng.normal(size=(BATCH, 5)).astype(np.float32), rng.integers(5, size=BATCH)
    logits[0, SOURCES != SOURCES[labels[0]]] = 1e4  # another head says nothing

    def loss(queries, **rest):
        return cross_entropy(queries, label_smoothing=smoothing, **rest)

    arrays = {"queries": logits, "labels": labels, "label_sources": SOURCES}
    found, gradient = with_gradient(loss, arrays)
    for row, label in enumerate(labels):
        classes = np.flatnonzero(SOURCES == SOURCES[label])
        z = logits[row, classes].astype(float)
        log_p = z - np.log(np.exp(z - z.max()).sum()) - z.max()
        own = log_p[list(classes).index(label)]
        expected = -(1 - smoothing) * own - smoothing * log_p.mean()
        np.testing.assert_allclose(found[row], expected, rtol=1e-5, atol=1e-6)
    assert (np.asarray(gradient)[SOURCES[labels][:, None] != SOURCES[None, :]] == 0).all()


def test_one_source_is_none():
    arrays = arrays_of(4)
    for name in "look_dense", "nca_streamed":
        found = with_gradient(LOSSES[name], arrays | {"label_sources": ONE})
        for x, y in zip(found, with_gradient(LOSSES[name], arrays)):
            np.testing.assert_array_equal(x, y)


def test_the_approximate_search_stays_within_the_source():
    arrays = arrays_of(5)
    of = {name: SOURCES[arrays[name]] for name in ("query_labels", "key_labels")}
    _, index = knn.search(arrays["queries"], arrays["keys"], 5, recall=0.9, **of)
    found = of["key_labels"][np.asarray(index)]
    assert ((found == of["query_labels"][:, None]) | (np.asarray(index) < 0)).all()


@pytest.mark.parametrize(
    "sources, error, text",
    [
        (np.zeros((5, 1), int), ValueError, r"label_sources must have shape \[classes\]"),
        (np.zeros(5), TypeError, "label_sources must be integers, got dtype float64"),
        (np.zeros(2, int), ValueError, "sources of labels 0 … 1, but labels reach from 0 to 4"),
        ([0, 0, 1, 1, 1], TypeError, "label_sources must be an array, got a list"),
    ],
)
def test_other_sources_are_refused(sources, error, text):
    arrays = arrays_of()
    with pytest.raises(error, match=text):
        nca(**arrays, label_sources=sources)
    with pytest.raises(error, match=text):
        sup_con(arrays["queries"], arrays["query_labels"], label_sources=sources)


def test_a_head_needs_the_source_of_every_class():
    with pytest.raises(ValueError, match=r"label_sources must have shape \[4\], got shape \(5,\)"):
        cross_entropy(np.zeros((2, 4), np.float32), np.zeros(2, int), label_sources=SOURCES)
