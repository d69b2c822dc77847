"""Values and traps of single losses; what holds of all of them stands in test_every_loss.py."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
import rounding

from jaxpt.losses import info_nce, nn_clr, nt_xent, sup_con

pytestmark = pytest.mark.usefixtures("unoptimised")

BATCH, DIM = 10, 4
TETRAHEDRON = np.array([[1.0, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]], np.float32)
AXES = np.array([[1, 0], [0, 1], [-1, 0], [0, -1]], np.float32)


def gaussian(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def compiled(loss, **options):
    return jax.jit(functools.partial(loss, **options))


# SupCon


@pytest.mark.parametrize(
    "labels, expected",
    [
        ([0, 0, 1, 1], [math.log(3)] * 4),
        ([0, 0, 0, 0], [math.log(3)] * 4),
        ([0, 0, 1, 2], [math.log(3), math.log(3), 0, 0]),
        ([0, 1, 2, 3], [0] * 4),
    ],
)
@pytest.mark.parametrize("form", ["out", "in"])
def test_corners_of_a_tetrahedron_give_log_3_wherever_there_is_a_positive(form, labels, expected):
    for temperature in 0.1, 1.0:
        losses = compiled(sup_con, form=form, temperature=temperature)(
            TETRAHEDRON, np.array(labels)
        )
        np.testing.assert_allclose(losses, expected, rtol=rounding.FEW, atol=rounding.FEW)


def test_the_mean_stands_outside_or_inside_of_the_logarithm():
    z = np.array([[1, 0], [1, 0], [0, 1]], np.float32)
    total = math.log(math.e + 1)
    # For the first anchor: positives at cosine 1 and 0, so (total − 1)/2 + total/2 …
    losses = compiled(sup_con, temperature=1.0)(z, np.zeros(3, int))
    np.testing.assert_allclose(
        losses, [total - 0.5, total - 0.5, math.log(2)], rtol=rounding.FEW, atol=rounding.FEW
    )
    # … or −log of the mean of two shares that add up to 1.
    losses = compiled(sup_con, form="in", temperature=1.0)(z, np.zeros(3, int))
    np.testing.assert_allclose(losses, [math.log(2)] * 3, rtol=rounding.FEW, atol=rounding.FEW)


def test_the_two_forms_agree_for_one_positive_and_out_is_larger_for_more():
    z, pairs, triples = gaussian(12, DIM), np.arange(12) % 6, np.arange(12) % 4
    out, in_ = (compiled(sup_con, form=form) for form in ("out", "in"))
    np.testing.assert_allclose(out(z, pairs), in_(z, pairs), rtol=1e-5)
    assert (out(z, triples) > in_(z, triples)).all()


@pytest.mark.parametrize("form", ["out", "in"])
def test_keys_are_contrast_as_the_rows_of_the_batch_are(form):
    z, labels = gaussian(12, DIM), np.arange(12) % 3
    whole = compiled(sup_con, form=form)(z, labels)[:5]
    split = compiled(sup_con, form=form)(z[:5], labels[:5], keys=z[5:], key_labels=labels[5:])
    np.testing.assert_allclose(split, whole, rtol=1e-5)


def test_an_anchors_own_keys_are_left_out_but_not_its_other_views():
    z, keys = AXES[[0, 0]], AXES[[0, 1]]
    losses = compiled(sup_con, temperature=1.0)(
        z,
        np.zeros(2, int),
        keys=keys,
        key_labels=np.array([0, 1]),
        ids=np.array([7, 7]),
        key_ids=np.array([7, 8]),
    )
    np.testing.assert_allclose(
        losses, [math.log(math.e + 1) - 1] * 2, rtol=rounding.FEW, atol=rounding.FEW
    )


@pytest.mark.parametrize("form", ["out", "in"])
def test_an_anchor_without_a_positive_has_no_gradient(form):
    z, labels = gaussian(BATCH, DIM), np.array([5, 6, 7, 8, 0, 0, 0, 1, 1, 1])

    def loss_of_the_lonely(z):
        return jnp.sum(sup_con(z, labels, form=form)[:4])

    np.testing.assert_array_equal(jax.jit(jax.grad(loss_of_the_lonely))(z), 0)


def test_the_order_of_the_rows_does_not_matter():
    z, labels = gaussian(BATCH, DIM), np.arange(BATCH) % 3
    order = np.random.default_rng(2).permutation(BATCH)
    loss = compiled(sup_con)
    np.testing.assert_allclose(loss(z[order], labels[order]), loss(z, labels)[order], rtol=1e-5)


# NT-Xent


def test_nt_xent_of_two_views_is_its_matrix_form():
    z = oracles.unit(gaussian(BATCH, DIM, seed=3))
    other = (np.arange(BATCH) + 5) % BATCH
    s = z @ z.T / 0.5
    others = ~np.eye(BATCH, dtype=bool)
    expected = np.log(np.exp(s).sum(axis=1, where=others)) - s[np.arange(BATCH), other]
    losses = compiled(nt_xent)(z.astype(np.float32), np.arange(BATCH) % 5)
    np.testing.assert_allclose(losses, expected, rtol=1e-5)


def test_nt_xent_counts_the_other_images_and_a_single_view_is_no_anchor():
    # Images at right angles, views alike: log(e² + number of other rows) − 2, at τ = 0.5.
    losses = compiled(nt_xent)(AXES[[0, 0, 1]], np.array([4, 4, 5]))
    np.testing.assert_allclose(
        losses, [math.log(math.e**2 + 1) - 2] * 2 + [0], rtol=rounding.FEW, atol=rounding.FEW
    )


# InfoNCE


def test_a_negative_like_the_positive_gives_log_2_and_a_nearer_one_more():
    query, positive = np.array([[1.0, 0.0]], np.float32), np.array([[0.6, 0.8]], np.float32)
    for negative, expected in ([0.6, -0.8], math.log(2)), ([0.8, 0.6], math.log(1 + math.exp(2))):
        losses = compiled(info_nce)(query, positive, np.array([negative], np.float32))
        np.testing.assert_allclose(losses, [expected], rtol=1e-5)


def test_info_nce_without_negatives_is_zero():
    queries, positives, keys = gaussian(3, BATCH, DIM)
    for losses in (
        compiled(info_nce)(queries, positives, keys, key_mask=np.zeros(BATCH, bool)),
        compiled(info_nce)(queries, positives, query_ids=np.zeros(BATCH, int)),
        compiled(info_nce)(queries[:1], positives[:1]),
    ):
        np.testing.assert_allclose(losses, 0, atol=1e-6)


def test_without_keys_the_negatives_are_the_other_rows_positives():
    loss = compiled(info_nce, temperature=1.0)
    # Every query is at its own positive and opposite or at right angles to the other three.
    expected = math.log(math.e + 2 + 1 / math.e) - 1
    np.testing.assert_allclose(
        loss(AXES, AXES), [expected] * 4, rtol=rounding.FEW, atol=rounding.FEW
    )
    # The last row is an image with the first: neither is the other's negative.
    losses = np.asarray(loss(AXES, AXES, query_ids=np.array([0, 1, 2, 0])))
    np.testing.assert_allclose(
        losses[[0, 3]], math.log(math.e + 1 + 1 / math.e) - 1, rtol=rounding.FEW, atol=rounding.FEW
    )
    np.testing.assert_allclose(losses[1:3], expected, rtol=rounding.FEW, atol=rounding.FEW)


def test_in_batch_info_nce_is_the_queue_form_with_the_positives_for_keys():
    queries, positives = gaussian(2, BATCH, DIM)
    rows = np.arange(BATCH)
    np.testing.assert_allclose(
        compiled(info_nce)(queries, positives),
        compiled(info_nce)(queries, positives, positives, query_ids=rows, key_ids=rows),
        rtol=1e-5,
    )


# NNCLR


def test_the_nearest_key_stands_in_for_the_view():
    views, keys = np.array([[1.0, 0.5], [0.5, 1.0]], np.float32), AXES
    loss = compiled(nn_clr, temperature=1.0)
    near, far = math.log(math.e + 1) - 1, math.log(math.e + 1)
    np.testing.assert_allclose(
        loss(views, AXES[:2], keys), [near] * 2, rtol=rounding.FEW, atol=rounding.FEW
    )
    np.testing.assert_allclose(
        loss(views, AXES[1::-1], keys), [far] * 2, rtol=rounding.FEW, atol=rounding.FEW
    )
    # Without its nearest key the first view falls back on the second nearest, the other axis.
    losses = loss(views, AXES[:2], keys, query_ids=np.array([5, 6]), key_ids=np.array([5, 1, 2, 3]))
    np.testing.assert_allclose(losses, [far, near], rtol=rounding.FEW, atol=rounding.FEW)


def test_a_row_without_an_admissible_key_teaches_nothing_but_stays_contrast():
    views, keys = gaussian(3, DIM), gaussian(4, DIM, seed=1)
    ids = {"query_ids": np.array([0, 1, 2]), "key_ids": np.zeros(4, int)}

    def total(predictions, weights, **ids):
        losses = nn_clr(views, predictions, keys, **ids)
        return jnp.sum(losses * weights), losses

    gradient = jax.jit(jax.grad(total, has_aux=True))
    first, losses = gradient(gaussian(3, DIM, seed=2), np.array([1.0, 0, 0]), **ids)
    assert losses[0] == 0 and not first.any() and losses[1] > 0
    others, free = gradient(gaussian(3, DIM, seed=2), np.array([0, 1.0, 0]), **ids)
    assert others[0].any()  # the prediction without a neighbour is contrast for the others
    _, free = gradient(gaussian(3, DIM, seed=2), np.array([0, 1.0, 0]))
    np.testing.assert_allclose(losses[1:], free[1:], rtol=rounding.FEW, atol=rounding.FEW)


# Other projects


def test_means_are_those_of_solo_learn():
    # Run once, solo/losses of github.com/vturrisi/solo-learn at 9187ea3.
    rng = np.random.default_rng(0)
    queries, positives = rng.normal(size=(2, 8, 6)).astype(np.float32)
    neighbors, labels = rng.normal(size=(16, 6)).astype(np.float32)[:8], rng.integers(3, size=8)
    losses = compiled(nn_clr)(neighbors, queries, neighbors)
    np.testing.assert_allclose(losses.mean(), 5.560993, rtol=rounding.FEW, atol=rounding.FEW)
    # MoCo v3 multiplies by twice the temperature.
    losses = compiled(info_nce, temperature=0.2)(queries, positives)
    np.testing.assert_allclose(
        losses.mean() * 2 * 0.2, 1.396022, rtol=rounding.FEW, atol=rounding.FEW
    )
    # Its SupCon is the "in" form with a sum for the mean.
    labels = np.tile(labels % 2, 2)
    n_positives = (labels[:, None] == labels).sum(axis=1) - 1
    losses = compiled(sup_con, form="in", temperature=0.5)(
        np.concatenate([queries, positives]), labels
    )
    np.testing.assert_allclose(
        (losses - np.log(n_positives)).mean(), 0.677665, rtol=rounding.FEW, atol=rounding.FEW
    )


# Arguments


CORNERS = {"embeddings": TETRAHEDRON, "labels": np.zeros(4, int)}
TRIPLE = dict.fromkeys(("queries", "positives", "keys"), TETRAHEDRON)
NARROW = np.ones((4, 2), np.float32)


@pytest.mark.parametrize(
    "loss, arguments, message",
    [
        (
            sup_con,
            CORNERS | {"embeddings": TETRAHEDRON[0]},
            r"embeddings must have shape \[rows, dim",
        ),
        (
            sup_con,
            CORNERS | {"labels": np.ones(3, int)},
            r"labels must have shape \[4\], got .*\(3,\)",
        ),
        (
            sup_con,
            CORNERS | {"form": "inside"},
            "form must be one of .*'out', 'in'.*, got 'inside'",
        ),
        (sup_con, CORNERS | {"keys": TETRAHEDRON}, "keys need key_labels"),
        (
            sup_con,
            CORNERS | {"key_mask": np.ones(4, bool)},
            "key_labels, key_ids and key_mask need",
        ),
        (
            sup_con,
            CORNERS | {"keys": NARROW, "key_labels": np.zeros(4, int)},
            "embeddings .* 3 but ke",
        ),
        (
            sup_con,
            CORNERS
            | {"keys": TETRAHEDRON, "key_labels": np.zeros(4, int), "ids": np.zeros(4, int)},
            "give both or neither",
        ),
        (
            nt_xent,
            {"embeddings": TETRAHEDRON, "ids": np.ones(3, int)},
            r"^ids must have shape \[4\]",
        ),
        (
            info_nce,
            TRIPLE | {"positives": TETRAHEDRON[:2]},
            r"shape of queries, \(4, 3\), got \(2, 3",
        ),
        (info_nce, TRIPLE | {"keys": NARROW}, "queries have dimension 3 but keys 2"),
        (info_nce, TRIPLE | {"query_ids": np.arange(4)}, "give both or neither"),
        (info_nce, TRIPLE | {"keys": None, "key_mask": np.ones(4, bool)}, "key_mask need keys"),
        (
            nn_clr,
            {"embeddings": TETRAHEDRON, "predictions": NARROW, "keys": TETRAHEDRON},
            r"predictions must have the shape of embeddings, \(4, 3\)",
        ),
        (
            nn_clr,
            {"embeddings": TETRAHEDRON, "predictions": TETRAHEDRON, "keys": NARROW},
            "embeddings have dimension 3 but keys 2",
        ),
    ],
)
def test_bad_arguments_are_named(loss, arguments, message):
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(lambda: loss(**arguments))
