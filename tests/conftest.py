"""Eight virtual CPU devices and the compile cache, set before anything imports JAX."""

import functools
import gc
import os
from unittest import mock

# Tests compile much and compute little: less optimisation halves what they cost.
FLAGS = {"--xla_force_host_platform_device_count": 8, "--xla_backend_optimization_level": 1}
for flag, value in FLAGS.items():
    if flag not in os.environ.get("XLA_FLAGS", ""):
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flag}={value}".strip()
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Also what compiles quickly is kept: tests have thousands of small programs.
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")

import jax  # noqa: E402
import jaxlib  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402

from jaxpt.cache import use_compile_cache  # noqa: E402

use_compile_cache()
# For the processes that tests start, also those that do not ask for a cache.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", jax.config.jax_compilation_cache_dir)


def pytest_collection_modifyitems(items):
    """Files with slow tests come first, so that no worker begins one when the others are done."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


def pytest_collection_finish():
    """What was imported and collected stays to the end: the garbage collector skips it.

    It comes less often, too, for tracing makes millions of objects and hardly any garbage.
    """
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)


@pytest.fixture(scope="module")
def unoptimised():
    """``jax.jit`` without optimisation, for files that compare no bits.

    Their programs run once or twice: optimising takes longer than running. Unoptimised, what
    stands around a computation may change its last bits.
    """
    options: dict[str, int | bool] = {"xla_backend_optimization_level": 0}
    # Compiles faster still; from 0.11 on, XLA refuses the option as one that it does not know.
    if jaxlib.__version__.startswith("0.10."):
        options["xla_cpu_use_fusion_emitters"] = False
    with mock.patch.object(jax, "jit", functools.partial(jax.jit, compiler_options=options)):
        yield


@pytest.fixture(scope="module")
def exact_products():
    """Multiplies float32 exactly on GPUs too, where JAX's default precision rounds it to TF32.

    For networks beside an oracle, or beside another form of the same function.
    """
    before = jax.config.jax_default_matmul_precision
    jax.config.update("jax_default_matmul_precision", "highest")  # for threads, too
    yield
    jax.config.update("jax_default_matmul_precision", before)


@pytest.fixture(scope="session")
def float16():
    """Skips where XLA has no float16, as on an x86 processor without F16C."""
    try:
        jax.jit(lambda x: x.astype(np.float32) + 1)(np.ones(3, np.float16))
    except jax.errors.JaxRuntimeError as error:
        pytest.skip(f"XLA has no float16 on this processor: {error}".splitlines()[0])


@pytest.fixture(scope="session")
def mesh():
    """Eight devices along the axis "shard"."""
    if jax.device_count() < 8:
        pytest.skip(f"needs 8 devices, this machine shows {jax.device_count()}")
    return jax.sharding.Mesh(np.array(jax.devices()[:8]), ("shard",))
