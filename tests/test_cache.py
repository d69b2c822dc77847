"""Settings of JAX's compilation cache."""

import jax
import pytest

from jaxpt.cache import use_compile_cache


@pytest.mark.parametrize("given, expected", [("", 0.2), ("0", 0.0)])
def test_jaxs_own_variable_comes_first(given, expected, monkeypatch):
    option = "jax_persistent_cache_min_compile_time_secs"
    before = getattr(jax.config, option)
    monkeypatch.delenv(option.upper(), raising=False)
    if given:
        monkeypatch.setenv(option.upper(), given)
    try:
        jax.config.update(option, 0.0)
        use_compile_cache()
        assert getattr(jax.config, option) == expected
    finally:
        jax.config.update(option, before)
