"""Tables of hyper latents: the factorised chain of each channel, the same on every machine.

A file says which weights it needs, and each side makes the tables from them. As for other tables
(`lvc.tables`) no machine's own exp, tanh or log is involved: parameters go through `decimal`, which
rounds correctly, and the chain through sums, products and quotients of float64.
"""

from collections.abc import Callable
from decimal import Decimal, localcontext

import numpy as np
from torch import Tensor

from lvc.tables import DIGITS, NEGLIGIBLE, Table, table_of_masses
from vcodecs.entropy import BitEstimator, CdfStage

REACH = 64
"""Symbols have tables of at most so many to either side; others escape."""

FAR = Decimal(100)
"""From here on softplus and tanh are their limits, and `decimal` would overflow."""

# ln 2 in two parts: whole multiples of the first, up to 2^11, are exact.
_LN2_HIGH = float.fromhex("0x1.62e42fee00000p-1")
_TERMS = 14


def hyper_tables(chain: BitEstimator) -> list[Table]:
    """One table a channel."""
    edges = np.arange(-REACH, REACH + 2)[None] - 0.5
    return [_trimmed(np.diff(row)) for row in cdf(chain, edges)]


def cdf(chain: BitEstimator, points: np.ndarray) -> np.ndarray:
    """Cumulative probabilities (C, n) of every channel at points (C, n), or (1, n) for all."""
    x = points
    for stage in (chain.f1, chain.f2, chain.f3, chain.f4):
        x = _stage(stage, x)
    return 1 / (1 + _exp(-x))


def _stage(stage: CdfStage, x: np.ndarray) -> np.ndarray:
    x = x * _column(stage.h, _softplus) + _column(stage.b, Decimal)
    if stage.a is None:
        return x
    return x + (1 - 2 / (_exp(2 * x) + 1)) * _column(stage.a, _tanh)


def _column(parameter: Tensor, function: Callable[[Decimal], Decimal]) -> np.ndarray:
    """(C, 1) of a parameter (1, C, 1, 1), each value through an exactly rounded function."""
    with localcontext() as context:
        context.prec = DIGITS
        values = [float(function(Decimal(v))) for v in parameter.detach().flatten().tolist()]
    return np.array(values)[:, None]


def _softplus(x: Decimal) -> Decimal:
    return x if x > FAR else (1 + x.exp()).ln()


def _tanh(x: Decimal) -> Decimal:
    return 1 - 2 / ((2 * max(-FAR, min(FAR, x))).exp() + 1)


def _exp(x: np.ndarray) -> np.ndarray:
    """e to the power of x, to about an ulp, out of sums and products alone."""
    x = np.clip(x, -700, 700)
    with localcontext() as context:
        context.prec = DIGITS
        ln2 = Decimal(2).ln()
        low, inverse = float(ln2 - Decimal(_LN2_HIGH)), float(1 / ln2)
    halvings = np.rint(x * inverse)
    rest = (x - halvings * _LN2_HIGH) - halvings * low
    series = np.ones_like(x)
    for n in range(_TERMS, 0, -1):
        series = 1 + series * rest / n
    return np.ldexp(series, halvings.astype(np.int64))


def _trimmed(masses: np.ndarray) -> Table:
    """A table of the symbols that have any mass to speak of."""
    worth = np.flatnonzero(masses >= NEGLIGIBLE)
    low, high = (worth[0], worth[-1]) if len(worth) else (REACH, REACH)
    return table_of_masses(masses[low : high + 1], int(low) - REACH)
