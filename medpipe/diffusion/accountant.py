"""Rényi accountant of the sampled Gaussian mechanism: what differentially private training has told of any one patient.

A step draws each patient with chance q, clips what he contributes to a norm of C and adds noise of standard deviation z·C. Its Rényi
divergence is that of Mironov, Talwar and Zhang 2019 (section 3.3) at whole orders; steps add up order by order, and the
sum becomes (ε, δ) by the conversion of Canonne, Kamath and Steinke 2020 (proposition 12).
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln, logsumexp

from medpipe.errors import InputError

ORDERS = (*range(2, 65), 72, 80, 96, 112, 128, 160, 192, 256, 384, 512, 1024)
NOISE_MAX = 1e4
Rdp = NDArray[np.float64]


def rdp(rate: float, noise: float, steps: int = 1) -> Rdp:
    """Return the Rényi divergence at each of ORDERS after `steps` steps that draw with chance `rate` at noise multiplier `noise`."""
    if steps == 0 or rate == 0:
        return np.zeros(len(ORDERS))
    if noise <= 0:
        return np.full(len(ORDERS), math.inf)
    return steps * np.array([_log_moment(rate, noise, order) / (order - 1) for order in ORDERS])


def _log_moment(rate: float, noise: float, order: int) -> float:
    """Return ln Σₖ C(α, k)·(1 − q)^(α − k)·q^k·exp((k² − k)/2z²)."""
    if rate == 1:
        return order * (order - 1) / (2 * noise**2)
    k = np.arange(order + 1)
    ways = gammaln(order + 1) - gammaln(k + 1) - gammaln(order - k + 1)
    return float(logsumexp(ways + (order - k) * math.log1p(-rate) + k * math.log(rate) + (k * k - k) / (2 * noise**2)))


def epsilon(spent: Rdp, delta: float) -> float:
    """Return the smallest ε at `delta` that the divergences at ORDERS prove."""
    orders = np.array(ORDERS, dtype=np.float64)
    proved = spent + np.log1p(-1 / orders) - (math.log(delta) + np.log(orders)) / (orders - 1)
    return max(0.0, float(proved.min()))


def noise_for(rate: float, steps: int, budget: float, delta: float) -> float:
    """Return the smallest noise multiplier, to three digits, with which `steps` steps stay within ε = `budget`; raises InputError."""
    if epsilon(rdp(rate, NOISE_MAX, steps), delta) > budget:
        raise InputError(f"train.dp_epsilon {budget:g} at train.dp_delta {delta:g} cannot be kept by any noise: raise either")
    low, high = 1e-2, NOISE_MAX
    while high / low > 1.0005:
        middle = math.sqrt(low * high)
        low, high = (low, middle) if epsilon(rdp(rate, middle, steps), delta) <= budget else (middle, high)
    return high
