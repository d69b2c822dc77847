"""What is counted in a jaxpr: by hand, and beside XLA's own account of the compiled step."""

import jax
import jax.numpy as jnp
import pytest
import small_runs
from jax import lax

from jaxpt import models, pretrain
from jaxpt.cost import counting
from jaxpt.data import sources
from jaxpt.data.feed import make_feed, rows_of_step
from jaxpt.train.parallel import Devices, trace


def counted(function, *shapes):
    return counting.count(
        jax.make_jaxpr(function)(*(jax.ShapeDtypeStruct(s, jnp.float32) for s in shapes))
    )


class TestByHand:
    def test_a_product_and_what_is_fused_into_it(self):
        counts = counted(lambda a, b: jax.nn.relu(2 * (a @ b)), (8, 16), (16, 4))
        assert counts.flops("float32") == 2 * 8 * 16 * 4
        assert counts.flops("other") == 2 * 8 * 4  # the factor, and the larger of two
        # Operands read, the product written and read again for the result, which is written.
        assert counts.bytes() == 4 * (8 * 16 + 16 * 4 + 3 * 8 * 4)
        assert counts.held == 4 * 8 * 4

    def test_kinds_of_products(self):
        a, half = jnp.zeros((4, 4)), jnp.zeros((4, 4), jnp.bfloat16)
        for operand, precision, kind in (
            (a, None, "float32"),
            (half, None, "bfloat16"),
            (a, "highest", "exact"),
        ):
            jaxpr = jax.make_jaxpr(lambda x, p=precision: jnp.matmul(x, x, precision=p))(operand)
            assert counting.count(jaxpr).flops(kind) == 2 * 4**3

    def test_what_nobody_uses_is_not_counted(self):
        def wasteful(a):
            a @ a @ a  # noqa: B018
            return a + 1

        assert counted(wasteful, (8, 8)).flops() == 64

    def test_loops_count_as_often_as_they_run_and_branches_as_the_dearest(self):
        product = 2 * 4**3

        def scanned(a):
            return lax.scan(lambda x, _: (x @ x, None), a, None, length=5)[0]

        def branched(a):
            return lax.cond(a[0, 0] > 0, lambda x: x @ x @ x, lambda x: x, a)

        def unknown(a):
            return lax.while_loop(lambda x: x[0, 0] > 0, lambda x: x @ x, a)

        assert counted(scanned, (4, 4)).flops("float32") == 5 * product
        assert counted(branched, (4, 4)).flops("float32") == 2 * product
        assert counted(unknown, (4, 4)).flops("float32") == product

    def test_of_what_depends_on_the_platform_the_accelerators_branch_counts(self):
        def product(a):
            return lax.platform_dependent(a, cpu=lambda x: x @ x @ x, default=lambda x: x @ x)

        def three(a):
            forms = {"cpu": lambda x: x, "tpu": lambda x: x @ x, "default": lambda x: x @ x @ x}
            return lax.platform_dependent(a, **forms)

        for function in product, three:
            assert counted(function, (4, 4)).flops("float32") == 2 * 4**3

    def test_reductions_that_need_no_other_share_a_read(self):
        size = 4 * 64 * 64

        def at_once(a):  # the sum of squares, counts above two values
            return jnp.sum(a * a), jnp.sum(a > 0.5), jnp.sum(a > 0.7)

        def in_turn(a):  # the second reads what is above the first's mean
            return jnp.sum(a > jnp.mean(a))

        assert counted(at_once, (64, 64)).bytes() == pytest.approx(size, abs=64)
        assert counted(in_turn, (64, 64)).bytes() == pytest.approx(2 * size, abs=64)

    def test_a_loop_writes_only_the_rows_that_it_sets(self):
        def rows(a, b):
            return lax.fori_loop(0, 8, lambda i, x: lax.dynamic_update_slice(x, b, (8 * i, 0)), a)

        moved = counted(rows, (64, 64), (8, 64)).bytes()
        assert moved == pytest.approx(2 * 4 * 64 * 64, abs=512)  # not 64 × 64 in every turn

    def test_rematerialisation_is_done_again(self):
        def loss(a):
            return jnp.sum((a @ a) ** 2)

        plain = counted(jax.value_and_grad(loss), (4, 4)).flops("float32")
        again = counted(jax.value_and_grad(jax.checkpoint(loss)), (4, 4)).flops("float32")
        assert plain == 3 * 2 * 4**3 and again == 4 * 2 * 4**3

    def test_values_are_held_until_they_are_last_read(self):
        def chain(a):  # three products, of which only two are there at a time
            return jnp.sum(a @ a @ a @ a)

        def fan(a):  # the first is read last
            first = a @ a
            return jnp.sum(first * (first @ a @ a))

        square = 4 * 8 * 8
        assert counted(chain, (8, 8)).held == pytest.approx(2 * square, abs=8)
        assert counted(fan, (8, 8)).held == pytest.approx(3 * square, abs=8)

    def test_bytes_that_travel(self):
        def step(state, batch):
            gathered = lax.all_gather(batch, "batch")
            return lax.psum(state, "batch"), jnp.sum(gathered)

        rows = jax.ShapeDtypeStruct((32, 2), jnp.float32)
        state = jax.ShapeDtypeStruct((10,), jnp.float32)
        jaxpr = trace(step, state, rows, axes=None, devices=8)
        assert counting.count(jaxpr, 8).sent == 7 / 8 * (2 * 4 * 10 + 4 * 32 * 2)
        alone = trace(step, state, rows, axes=None, devices=1)
        assert counting.count(alone, 1).sent == 0


@pytest.mark.parametrize(
    "options",
    [
        {"window_strides": (1, 1), "padding": "SAME"},
        {"window_strides": (2, 2), "padding": ((3, 3), (2, 0))},
        {"window_strides": (2, 1), "padding": "VALID", "rhs_dilation": (2, 1)},
        {"window_strides": (1, 1), "padding": ((2, 2), (1, 1)), "lhs_dilation": (2, 3)},
        {"window_strides": (1, 1), "padding": "SAME", "feature_group_count": 4},
    ],
)
def test_convolutions_as_xla_counts_them(options):
    shapes = (2, 9, 11, 8), (3, 3, 8 // options.get("feature_group_count", 1), 12)

    def convolve(x, kernel):
        return lax.conv_general_dilated(
            x, kernel, **options, dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    for function in convolve, jax.value_and_grad(lambda *a: jnp.sum(convolve(*a)), (0, 1)):
        lowered = jax.jit(function).lower(*(jnp.zeros(s) for s in shapes))
        assert counted(function, *shapes).flops() == pytest.approx(
            lowered.cost_analysis()["flops"], rel=2e-3
        )


@pytest.fixture(scope="module")
def dataset():
    return sources.load(small_runs.config_of("look", small_runs.RUN).data)


NARROW = {
    "resnet18": {"stem": "small", "width": 8},
    "small_cnn": {"widths": (16, 32), "strides": (2, 1)},
    "vit_ti16": {"patch": 4, "image_size": 8},
}


# The whole step, guard and gathered batch included, as pre-training compiles it. Methods that have
# what others have not: a search, prototypes and small crops, one more forward pass, a predictor.
@pytest.mark.parametrize(
    "method, network",
    [
        ("look", "small_cnn"),
        ("dino", "small_cnn"),
        ("nn_clr", "small_cnn"),
        ("cross_entropy", "resnet18"),
        ("byol", "small_cnn"),
        ("cross_entropy", "vit_ti16"),
    ],
)
def test_flops_agree_with_xla_on_the_compiled_step(method, network, dataset, monkeypatch):
    # Counted is what TPUs run, so the CPU compiles that as well.
    def of_tpus(*arrays, default, **others):
        return others.get("tpu", default)(*arrays)

    monkeypatch.setattr(lax, "platform_dependent", of_tpus)
    config = small_runs.config_of(
        method,
        small_runs.RUN
        | {
            "local_views": 1 if method == "dino" else 0,
            "look.k_warmup": "0 steps",
            "model.name": network,
            "model.options": NARROW[network],
        },
    )
    step, _ = pretrain.prepare(config, dataset)
    devices = Devices(config.mapping, 1)
    train = pretrain.train_split(config, dataset)
    state = pretrain.place_state(pretrain.init_state(step, config, train.images), config, devices)
    feed = make_feed(config, train, dataset.coarse(train.labels), devices)
    guard = pretrain.guarded(step.step, max_skipped=0)

    def one_step(state, data, rows):
        return guard(state, feed.gather(data, rows))

    rows = devices.split(rows_of_step(0, config.batch_size, n=feed.n, seed=0))
    compiled = (
        devices.map(one_step, like=state)
        .lower(state, feed.data, rows)
        .compile({"xla_backend_optimization_level": 0})
    )
    jaxpr = trace(
        lambda state, x: one_step(state, *x),
        state,
        (feed.data, rows),
        devices=1,
        axes=jax.tree.map(lambda _: None, state),
    )
    assert counting.count(jaxpr).flops() == pytest.approx(
        compiled.cost_analysis()["flops"], rel=0.05
    )


def test_resnet_50_as_published():
    encoder = models.Encoder(models.ResNet50())
    image = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
    variables = jax.eval_shape(lambda x: encoder.init(jax.random.key(0), x, False), image)
    counts = counting.count(
        jax.make_jaxpr(lambda v, x: encoder.apply(v, x, False)[1])(variables, image)
    )
    # 4.1 billion multiply-adds with the zero borders, which are 3.5 % of them.
    assert counts.flops("float32") == pytest.approx(2 * 4.09e9, rel=0.04)
    # XLA's account of the program that it compiled for a CPU (jax 0.10.2).
    assert counts.flops() == pytest.approx(7_993_237_504, rel=0.01)
