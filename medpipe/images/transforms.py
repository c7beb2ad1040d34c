"""Pure array functions: intensities to the stored range, any grid to the model's grid, and the model's range and back.

Geometry is isotropic and centred: the middle of an image is the middle of the result, one step has the same length in
millimetres along every axis, and what lies outside the image is 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from medpipe.images.reasons import Reason, Rejected

Floats = NDArray[np.floating[Any]]
Stored = NDArray[np.unsignedinteger[Any]]


def to_model(stored: Stored) -> NDArray[np.float32]:
    """Map stored integers to the model's range: 0 to -1, the largest value of the type to +1. Any shape, kept."""
    if stored.dtype.kind != "u":
        raise TypeError(f"stored images are unsigned integers, and these are {stored.dtype}")
    half = np.float32(np.iinfo(stored.dtype).max / 2)
    return stored.astype(np.float32) / half - np.float32(1)


def to_stored(model: Floats, dtype: str) -> Stored:
    """Map the model's range to stored integers of `dtype` ("uint8" or "uint16"): clip, then round half to even.

    `to_stored(to_model(x), x.dtype.name)` is `x` for every value of both types. Raises ValueError on NaN or infinity,
    which an integer cannot say.
    """
    if not np.isfinite(model).all():
        raise ValueError("images hold NaN or infinity, which no stored integer can say")
    half = np.iinfo(dtype).max / 2
    scaled = (np.clip(model, -1, 1).astype(np.float64) + 1) * half
    stored: Stored = np.rint(scaled).astype(dtype)
    return stored


def window(values: Floats, low: float, high: float, ignored: NDArray[np.bool_] | None = None) -> NDArray[np.float32]:
    """Stretch `values` so that their percentile `low` becomes 0 and `high` becomes 1, and clip.

    `ignored` pixels (padding) do not count and become 0. Where the two percentiles are one value, as in an image that
    is nearly all background, the whole range is stretched instead. Raises Rejected(CONSTANT) or Rejected(NOT_FINITE).
    """
    counted = values if ignored is None else values[~ignored]
    if not counted.size:
        raise Rejected(Reason.CONSTANT)
    if not np.isfinite(counted).all():
        raise Rejected(Reason.NOT_FINITE)
    bottom, top = _percentiles(counted, low, high)
    if bottom == top:
        bottom, top = float(counted.min()), float(counted.max())
    if bottom == top:
        raise Rejected(Reason.CONSTANT)
    out = values.astype(np.float32)
    out -= np.float32(bottom)
    out /= np.float32(top - bottom)
    np.clip(out, 0, 1, out=out)
    if ignored is not None:
        out[ignored] = 0
    return out


def _percentiles(values: Floats, *percentiles: float) -> list[float]:
    """Return what np.percentile does; counted, and ten times as fast, where the values are integers of a narrow range."""
    low, high = float(values.min()), float(values.max())
    if high - low > 2**17:
        return [float(value) for value in np.percentile(values, percentiles)]
    whole = (values - values.dtype.type(low)).ravel()
    places = whole.astype(np.int64)
    if not np.array_equal(places, whole):
        return [float(value) for value in np.percentile(values, percentiles)]
    below = np.cumsum(np.bincount(places))
    ranks = np.asarray(percentiles) / 100 * (values.size - 1)
    first, second = (np.searchsorted(below, edge(ranks), side="right") for edge in (np.floor, np.ceil))
    return [float(value) for value in low + first + (ranks - np.floor(ranks)) * (second - first)]


def step(shape: Sequence[int], spacing: Sequence[float], sides: Sequence[int]) -> float:
    """Return the smallest step, in the unit of `spacing`, at which the whole field of view lies within `sides` samples."""
    return max(n * d / size for n, d, size in zip(shape, spacing, sides, strict=True))


def fit(values: Floats, spacing: Sequence[float], sides: Sequence[int], to: float) -> NDArray[np.float32]:
    """Resample the last axes of `values`, one per entry of `spacing`, to `sides` samples at the step `to`.

    Linear with a triangle filter as wide as the coarser of the two steps, so that nothing aliases (the antialiased
    bilinear filter of Pillow and torch); exact in spacing, and the same to the bit whatever the number of threads.
    """
    out = values.astype(np.float32, copy=False)
    first = out.ndim - len(spacing)
    for axis, (distance, size) in enumerate(zip(spacing, sides, strict=True), start=first):
        if (out.shape[axis], distance) == (size, to):
            continue
        lines = np.moveaxis(out, axis, 0)
        resampled = _triangle(lines.shape[0], distance, size, to) @ lines.reshape(lines.shape[0], -1)
        out = np.moveaxis(resampled.reshape(size, *lines.shape[1:]), 0, axis)
    return np.ascontiguousarray(out)


def fit_nearest(labels: Stored, spacing: Sequence[float], sides: Sequence[int], to: float) -> Stored:
    """Resample a label map as `fit` does an image, each sample taking the label nearest to it."""
    out = labels
    for axis, (distance, size) in enumerate(zip(spacing, sides, strict=True), start=labels.ndim - len(spacing)):
        n = out.shape[axis]
        place = np.floor(_positions(n, distance, size, to) + 0.5).astype(np.int64)
        inside = (place >= 0) & (place < n)
        out = np.take(out, np.clip(place, 0, n - 1), axis=axis)
        out[(slice(None),) * axis + (~inside,)] = 0
    return np.ascontiguousarray(out)


def _positions(n: int, spacing: float, size: int, to: float) -> NDArray[np.float64]:
    """Return where the `size` samples lie among the `n` old ones, in old indices: both centres are one point."""
    from_centre = np.arange(size, dtype=np.float64) - (size - 1) / 2
    return from_centre * (to / spacing) + (n - 1) / 2


def _triangle(n: int, spacing: float, size: int, to: float) -> csr_array:
    """Return the (size, n) weights of each old sample in each new one; a new sample outside the field of view has none."""
    centre = _positions(n, spacing, size, to)
    width = max(1.0, to / spacing)
    reach = int(np.ceil(width))
    near = np.floor(centre).astype(np.int64)[:, None] + np.arange(-reach, reach + 2)
    weight = np.clip(1 - np.abs(near - centre[:, None]) / width, 0, None)
    weight[(near < 0) | (near >= n)] = 0
    weight[(centre < -0.5) | (centre > n - 0.5)] = 0  # beyond the outer edge of the outermost sample
    total = weight.sum(axis=1, keepdims=True)
    weight = np.divide(weight, total, out=np.zeros_like(weight), where=total > 0)
    row, column = np.nonzero(weight)
    return csr_array((weight[row, column].astype(np.float32), (row, near[row, column])), shape=(size, n))
