"""Bounds on the rounding of float32, from which tests take their tolerances.

They hold for sums in any order, with fused multiply-adds or without, and so for every processor,
number of threads and version of XLA: |computed − exact| ≤ n·u·Σ|terms| of a sum of n terms, u half
of ``EPS`` (Higham 2002, "Accuracy and stability of numerical algorithms", section 3.1). All are by
how much *two* computations may differ. Where they are compared with an oracle in float64, half
would do.
"""

import numpy as np

EPS = float(np.finfo(np.float32).eps)
FUNCTION = 4  # an exponential, logarithm, division or square root is within so many EPS
# Relative and absolute, of values computed by hand: up to 16 terms and four functions of them, of
# size 1 or so. Absolute too, since the logarithms of two sums may nearly cancel.
FEW = 32 * EPS


def of_sum(terms: int, total: float = 1.0) -> float:
    """A sum of ``terms`` numbers whose absolute values add up to ``total``."""
    return terms * EPS * total


def of_unit_row(dim: int) -> float:
    """An entry of a row scaled to length one, of ``dim`` entries."""
    return of_sum(dim) / 2 + FUNCTION * EPS


def of_product(dim: int, largest: float = 1.0) -> float:
    """An inner product of rows of ``dim`` entries whose lengths multiply to at most ``largest``.

    The scaling of both to length one is included.
    """
    return largest * (of_sum(dim) + 2 * of_unit_row(dim))


def of_log_sum(terms: int, logit: float) -> float:
    """The logarithm of a sum of ``terms`` exponentials of logits that are uncertain by ``logit``.

    As much, relatively, is uncertain about each one's share in that sum, and so about gradients.
    """
    return logit + of_sum(terms) + 2 * FUNCTION * EPS


def of_steps(steps: int, terms: int) -> float:
    """Anything of size 1 after a few steps of SGD whose gradients are means of ``terms``.

    Twice the rounding of the sums, for what one step's does to the next. It holds as long as no
    ReLU has an input within rounding of zero, where two computations may take different sides: keep
    networks small, so that there are thousands of inputs and not hundreds of thousands.
    """
    return 2 * steps * of_sum(terms)
