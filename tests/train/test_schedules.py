"""Learning rates over steps."""

import numpy as np

from jaxpt.train import optimizer


def test_step_decay():
    schedule = optimizer.step_decay(
        2.0, total_steps=10, warmup_steps=2, at=(0.3, 0.6, 0.9), factor=0.1
    )
    np.testing.assert_allclose(
        [schedule(i) for i in range(10)],
        [0, 1, 2, 0.2, 0.2, 0.2, 0.02, 0.02, 0.02, 0.002],
        rtol=1e-5,
    )
    plain = optimizer.step_decay(2.0, total_steps=10, warmup_steps=0, at=(0.1,), factor=0.5)
    assert [float(plain(i)) for i in range(3)] == [2, 1, 1]
