from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from medpipe.images.reasons import Reason, Rejected
from medpipe.images.transforms import fit, fit_nearest, step, to_model, to_stored, window


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_every_stored_value_comes_back_from_the_model_range(dtype: str) -> None:
    values = np.arange(np.iinfo(dtype).max + 1).astype(dtype)
    model = to_model(values)
    assert (model.dtype, model.min(), model.max()) == (np.float32, -1, 1)
    assert np.array_equal(to_stored(model, dtype), values)


def test_what_the_model_overshoots_is_clipped_and_what_is_not_finite_refused() -> None:
    assert to_stored(np.array([-3.0, 3.0], np.float32), "uint8").tolist() == [0, 255]
    with pytest.raises(ValueError, match="NaN"):
        to_stored(np.array([np.nan], np.float32), "uint8")
    with pytest.raises(TypeError, match="unsigned"):
        to_model(np.zeros(3, np.float32))  # type: ignore[arg-type]


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 60), st.integers(2, 60), st.integers(8, 64), st.integers(0, 2**31))
def test_the_filter_is_that_of_torch_antialiased_on_squares_and_keeps_a_constant(height: int, width: int, size: int, seed: int) -> None:
    values = np.random.default_rng(seed).random((height, height), np.float32)
    wanted = torch.nn.functional.interpolate(torch.tensor(values)[None, None], size=(size, size), mode="bilinear", antialias=True)
    assert np.allclose(fit(values, (1, 1), (size, size), height / size), wanted[0, 0].numpy(), atol=1e-4)
    flat = fit(np.full((height, width), 0.25, np.float32), (1, 1), (size, size), step((height, width), (1, 1), (size, size)))
    assert set(np.unique(np.round(flat, 5))) <= {np.float32(0), np.float32(0.25)}


def test_a_wide_image_is_padded_above_and_below_and_not_stretched() -> None:
    image = fit(np.ones((20, 40), np.float32), (1, 1), (20, 20), 2.0)
    assert np.array_equal(image[5:15], np.ones((10, 20)))
    assert not image[:5].any()
    assert not image[15:].any()


def test_the_whole_field_of_view_lies_within_sides_that_differ() -> None:
    assert step((40, 51, 30), (1, 1, 1), (32, 48, 32)) == 1.25
    volume = fit(np.ones((40, 51, 30), np.float32), (1, 1, 1), (32, 48, 32), 1.25)
    assert [int(np.any(volume, axis=tuple({0, 1, 2} - {axis})).sum()) for axis in range(3)] == [32, 40, 24]


def test_the_physical_aspect_counts_and_not_the_matrix() -> None:
    y, x = np.mgrid[-1:1:80j, -1:1:40j]  # a circle, in pixels twice as wide as high
    circle = (y**2 + x**2 < 0.5).astype(np.float32)
    image = fit(circle, (0.5, 1.0), (40, 40), 1.0)
    assert image.shape == (40, 40)
    assert abs(image.sum(axis=0).max() - image.sum(axis=1).max()) < 1.5


def test_spacing_is_exact_and_the_centre_stays_the_centre() -> None:
    ramp = np.broadcast_to(np.arange(101, dtype=np.float32), (101, 101))
    image = fit(ramp, (1.0, 1.0), (16, 16), 3.0)
    assert np.allclose(np.diff(image[8]), 3.0, atol=1e-4)
    assert np.isclose(image[8].mean(), 50, atol=1e-3)


def test_masks_lie_where_the_image_lies() -> None:
    image = np.zeros((60, 90), np.float32)
    image[15:40, 50:80] = 1
    mask = fit_nearest(image.astype(np.uint8) * 3, (1.0, 0.7), (32, 40), 2.3)
    seen = fit(image, (1.0, 0.7), (32, 40), 2.3) >= 0.5
    assert mask.shape == seen.shape == (32, 40)
    assert set(np.unique(mask)) == {0, 3}
    assert (seen != (mask == 3)).mean() < 0.02


def test_volumes_are_resampled_along_all_three_axes() -> None:
    z, y, x = np.mgrid[0:20, 0:40, 0:30].astype(np.float32)
    volume = fit(z * 2 + y + x, (2.0, 1.0, 1.0), (10, 12, 8), 2.0)
    assert volume.shape == (10, 12, 8)
    assert np.allclose(np.diff(volume, axis=0), 2 * 1.0, atol=1e-4)
    assert np.allclose(np.diff(volume, axis=2), 2.0, atol=1e-4)


def test_the_window_spans_the_percentiles_and_leaves_padding_out() -> None:
    values = np.linspace(0, 1000, 10_000).reshape(100, 100)
    padded = values.copy()
    padded[:40] = -2000
    assert np.isclose(window(values, 1, 99).mean(), 0.5, atol=1e-3)
    out = window(padded, 1, 99, padded == -2000)
    assert not out[:40].any()
    assert np.isclose(out[40:].mean(), 0.5, atol=1e-2)


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (np.full((4, 4), 7.0), Reason.CONSTANT),
        (np.array([[1.0, np.nan]]), Reason.NOT_FINITE),
        (np.array([[1.0, np.inf]]), Reason.NOT_FINITE),
    ],
)
def test_an_image_without_contrast_or_with_nan_has_its_reason(values: np.ndarray, reason: Reason) -> None:
    with pytest.raises(Rejected) as rejected:
        window(values, 0.5, 99.5)
    assert rejected.value.reason is reason


@settings(max_examples=50, deadline=None)
@given(st.integers(2, 5000), st.integers(1, 200_000), st.floats(0, 49), st.floats(51, 100), st.booleans())
def test_the_window_is_that_of_numpys_percentiles(n: int, span: int, low: float, high: float, whole: bool) -> None:
    values = np.random.default_rng(n).integers(-1000, span, n).astype(np.float32) + (0 if whole else np.float32(0.5) * (np.arange(n) % 2))
    bottom, top = np.percentile(values, (low, high))
    if bottom < top:
        assert np.allclose(window(values, low, high), np.clip((values - bottom) / (top - bottom), 0, 1), atol=1e-4)


def test_an_image_that_is_nearly_all_background_is_stretched_whole() -> None:
    values = np.zeros((100, 100))
    values[50, 50] = 10
    assert window(values, 0.5, 99.5).max() == 1


def test_every_reason_has_its_sentence() -> None:
    assert len({reason.value for reason in Reason}) == len(Reason.__members__) == len(list(Reason))
    assert all(reason.value.endswith(".") and reason.name.isupper() for reason in Reason)
