"""How the power of images is spread over spatial frequencies: what blur, noise, compression and upsampling change."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

BINS = 16
"""Rings between the lowest frequency and the highest that every axis has (half a cycle a pixel)."""
FLOOR = 1e-8
"""Power, as a part of that of a full-range image, below which a ring counts as empty: under the rounding to grey levels."""


def radial_power(images: NDArray[np.unsignedinteger[Any]]) -> NDArray[np.float64]:
    """Return the log10 of the mean power in BINS rings of equal width for stored images (N, C, …): (N, BINS).

    Radially averaged power spectrum (Durall et al. 2020, equation 3), of the full range's unit, after a Hann window so that the
    edges of the field of view do not look like detail. Channels are averaged; a ring that no frequency falls into has the
    value of the one below.
    """
    axes = tuple(range(2, images.ndim))
    scale = float(np.iinfo(images.dtype).max)
    frequencies = np.meshgrid(*[np.fft.fftfreq(images.shape[axis]) for axis in axes], indexing="ij")
    radius = np.sqrt(sum(np.square(part) for part in frequencies))
    ring = np.minimum((radius / 0.5 * BINS).astype(np.int64), BINS)  # the corners, beyond 0.5, are left out
    taper = np.ones(())
    for axis in axes:
        taper = np.multiply.outer(taper, np.hanning(images.shape[axis] + 2)[1:-1])
    count = np.bincount(ring.ravel(), minlength=BINS + 1)[:BINS]
    found = np.empty((len(images), BINS))
    for number, image in enumerate(images):
        unit = image / scale
        unit = (unit - unit.mean(tuple(range(1, unit.ndim)), keepdims=True)) * taper
        power = (np.abs(np.fft.fftn(unit, axes=tuple(range(1, unit.ndim)))) ** 2).mean(0) / taper.size
        found[number] = np.bincount(ring.ravel(), power.ravel(), BINS + 1)[:BINS]
    found /= np.maximum(count, 1)
    for empty in np.flatnonzero(count == 0):
        found[:, empty] = found[:, empty - 1]
    return np.asarray(np.log10(found + FLOOR))
