"""Copies of training images in a cohort: exact ones by digest, near ones by aligned likeness, and proof that they are seen.

The threshold of a near copy is set on real held-out images, so that at most a stated share of new real patients is
called a copy. Before the detector is believed, known copies of training images are planted among its candidates.
"""

from __future__ import annotations

import hashlib
import io
import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage, stats

Stored = NDArray[np.unsignedinteger[Any]]
Scores = NDArray[np.float64]


def canonical_digests(images: Stored) -> list[bytes]:
    """Digest each image (N, C, …) so that its mirrored and quarter-turned copies have the same digest.

    The digest of the smallest of the orientations: 8 of an image, 16 of a volume (its third axis is mirrored too).
    """
    found = []
    for image in images:
        depths = (image,) if image.ndim == 3 else (image, image[:, ::-1])
        turned = (np.rot90(side, turn, (-2, -1)) for depth in depths for side in (depth, depth[..., ::-1]) for turn in range(4))
        found.append(min(hashlib.sha256(str(view.shape).encode() + view.tobytes()).digest() for view in turned))
    return found


def thresholds(real: Scores, share: float) -> Scores:
    """Set one threshold per score so that at most `share` of the real images `real` (N, scores) lies above any of them.

    The scores share the level equally. Where N is too small for the level to be counted, the threshold is at least what
    the upper tail extrapolates to: exceedances over the highest tenth are taken as exponential (peaks over threshold;
    Coles 2001, section 4), since the largest of a few scores says little.
    """
    n, rules = real.shape
    ordered = np.sort(real, axis=0)[::-1]  # (N, scores), highest first
    chosen = ordered[0]
    for above in range(1, n):
        if flagged(real, ordered[above]).mean() > share:
            break
        chosen = ordered[above]
    if n * share / rules < 5:
        tail = min(n - 1, max(10, n // 10))
        excess = (ordered[:tail] - ordered[tail]).mean(0)
        chosen = np.maximum(chosen, ordered[tail] + excess * max(0.0, math.log(tail / n * rules / share)))
    return np.asarray(chosen, dtype=np.float64)


def flagged(scores: Scores, limits: Scores) -> NDArray[np.bool_]:
    """Say which images lie above any limit; an image whose score is not a number is flagged."""
    return np.asarray(~(scores <= limits).all(axis=1), dtype=np.bool_)


def clopper_pearson(hits: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """Exact interval of a share (Clopper & Pearson 1934); (0, 1) where n is 0."""
    tail = (1 - level) / 2
    low = float(stats.beta.ppf(tail, hits, n - hits + 1)) if hits > 0 else 0.0
    high = float(stats.beta.ppf(1 - tail, hits + 1, n - hits)) if hits < n else 1.0
    return low, high


def _shifted(image: NDArray[np.float64], share: float) -> NDArray[np.float64]:
    move = round(share * image.shape[-1])
    return np.asarray(ndimage.shift(image, (0,) * (image.ndim - 1) + (move,), order=1, mode="nearest"))


def _turned(image: NDArray[np.float64], degrees: float) -> NDArray[np.float64]:
    return np.asarray(ndimage.rotate(image, degrees, axes=(-2, -1), reshape=False, order=1, mode="nearest"))


def _enlarged(image: NDArray[np.float64], factor: float) -> NDArray[np.float64]:
    centre = (np.array(image.shape) - 1) / 2
    scale = np.array([1.0] + [1 / factor] * (image.ndim - 1))
    return np.asarray(ndimage.affine_transform(image, scale, offset=centre - scale * centre, order=1, mode="nearest"))


def _warped(image: NDArray[np.float64], share: float, draws: np.random.Generator) -> NDArray[np.float64]:
    """Warp by a smooth random field of displacements whose root mean square is `share` of the side."""
    space, side = image.shape[1:], image.shape[-1]
    field = np.stack([ndimage.gaussian_filter(draws.normal(size=space), 0.12 * side, mode="wrap") for _ in space])
    field *= share * side / max(float(np.sqrt((field**2).sum(0).mean())), 1e-12)
    places = np.indices(space) + field
    return np.stack([ndimage.map_coordinates(channel, places, order=1, mode="nearest") for channel in image])


def jpeg(image: NDArray[np.float64], quality: int) -> NDArray[np.float64]:
    """Compress every slice of every channel as JPEG."""
    flat = np.rint(image * 255).astype(np.uint8).reshape(-1, *image.shape[-2:])
    out = []
    for plane in flat:
        buffer = io.BytesIO()
        Image.fromarray(plane).save(buffer, format="JPEG", quality=quality)
        out.append(np.asarray(Image.open(buffer), dtype=np.float64) / 255)
    return np.stack(out).reshape(image.shape)


def _region(image: NDArray[np.float64], other: NDArray[np.float64], share: float, draws: np.random.Generator) -> NDArray[np.float64]:
    """Put a block of a copy, of `share` of each side and anywhere, into another image."""
    sides = [max(1, round(share * side)) for side in image.shape[1:]]
    starts = [int(draws.integers(0, whole - part + 1)) for whole, part in zip(image.shape[1:], sides, strict=True)]
    block = (slice(None), *(slice(start, start + part) for start, part in zip(starts, sides, strict=True)))
    mixed = other.copy()
    mixed[block] = image[block]
    return mixed


def _half(image: NDArray[np.float64], other: NDArray[np.float64]) -> NDArray[np.float64]:
    """Put the left half of a copy beside the right half of another image."""
    middle = image.shape[-1] // 2
    return np.concatenate((image[..., :middle], other[..., middle:]), axis=-1)


def _blurred(image: NDArray[np.float64], share: float) -> NDArray[np.float64]:
    return np.asarray(ndimage.gaussian_filter(image, (0,) + (share * image.shape[-1],) * (image.ndim - 1), mode="nearest"))


REQUIRED = ("exact", "mirrored", "shifted", "turned", "grain", "gamma")
"""Families of copies that the detector must find for its word to count."""
FAMILIES = (
    *REQUIRED, "contrast", "inverted", "blurred", "strongly_blurred", "enlarged", "cropped", "jpeg", "strong_grain", "heavy_grain",
    "blended", "half_blended", "evenly_blended", "blend_of_two", "warped", "strongly_warped",
    "most", "half", "quarter", "compound", "strong_compound",
)  # fmt: skip
"""The others show from which strength on copies are missed."""
BORROWING = ("blended", "half_blended", "evenly_blended", "most", "half", "quarter")
"""Families of which a part is another image's, which has to be passed over in the search: it is no copy that was asked for."""


def planted(sources: Stored, others: Stored, family: str, draws: np.random.Generator) -> Stored:
    """Make copies of `sources` (N, C, …) as a model that memorised them might; `others` are blended in where asked, in a blend of
    two as one that may be found as well.

    Strengths: moved 7 % of the side, turned 5°, grain of 2 % (strong: 5 %, heavy: 10 %) of the range, gamma 1.3, contrast 0.8,
    blur of 2 % (strong: 4 %) of the side, enlarged 10 %, the middle 80 % of the side alone, JPEG quality 10, blends of 85:15 (half:
    70:30, even, and of two: 50:50), smooth warps of 2.5 % of the side (strong: 4.3 %), a block of three quarters of each side (most) or of
    half of it (quarter) in another image, the left half alone; compound: mirrored, turned, moved, gamma 1.2 and grain; the strong
    one is turned and moved at random, with grain of 5 %.
    """
    top = float(np.iinfo(sources.dtype).max)
    unit, other = sources / top, others / top
    change: Callable[[NDArray[np.float64], int], NDArray[np.float64]]
    match family:
        case "exact":
            return sources.copy()
        case "mirrored":
            return np.ascontiguousarray(sources[..., ::-1])
        case "shifted":
            change = lambda image, k: _shifted(image, 0.07 if k % 2 else -0.07)  # noqa: E731
        case "turned":
            change = lambda image, k: _turned(image, 5 if k % 2 else -5)  # noqa: E731
        case "grain":
            change = lambda image, k: image + draws.normal(0, 0.02, image.shape)  # noqa: E731
        case "gamma":
            change = lambda image, k: image ** (1.3 if k % 2 else 1 / 1.3)  # noqa: E731
        case "contrast":
            change = lambda image, k: (image - 0.5) * 0.8 + 0.5  # noqa: E731
        case "blurred":
            change = lambda image, k: _blurred(image, 0.02)  # noqa: E731
        case "strongly_blurred":
            change = lambda image, k: _blurred(image, 0.04)  # noqa: E731
        case "enlarged":
            change = lambda image, k: _enlarged(image, 1.1)  # noqa: E731
        case "cropped":
            change = lambda image, k: _enlarged(image, 1.25)  # noqa: E731
        case "strong_grain":
            change = lambda image, k: image + draws.normal(0, 0.05, image.shape)  # noqa: E731
        case "heavy_grain":
            change = lambda image, k: image + draws.normal(0, 0.1, image.shape)  # noqa: E731
        case "inverted":
            change = lambda image, k: 1 - image  # noqa: E731
        case "jpeg":
            change = lambda image, k: jpeg(image, 10)  # noqa: E731
        case "half_blended":
            change = lambda image, k: 0.7 * image + 0.3 * other[k]  # noqa: E731
        case "warped":
            change = lambda image, k: _warped(image, 0.025, draws)  # noqa: E731
        case "strongly_warped":
            change = lambda image, k: _warped(image, 0.043, draws)  # noqa: E731
        case "evenly_blended" | "blend_of_two":
            change = lambda image, k: 0.5 * image + 0.5 * other[k]  # noqa: E731
        case "most":
            change = lambda image, k: _region(image, other[k], 0.75, draws)  # noqa: E731
        case "quarter":
            change = lambda image, k: _region(image, other[k], 0.5, draws)  # noqa: E731
        case "half":
            change = lambda image, k: _half(image, other[k])  # noqa: E731
        case "blended":
            change = lambda image, k: 0.85 * image + 0.15 * other[k]  # noqa: E731
        case "compound":
            change = lambda image, k: _shifted(_turned(image[..., ::-1], 5), 0.07) ** 1.2 + draws.normal(0, 0.02, image.shape)  # noqa: E731
        case "strong_compound":
            change = lambda image, k: (  # noqa: E731
                _shifted(_turned(image[..., ::-1], draws.uniform(-8, 8)), draws.uniform(-0.1, 0.1)) ** draws.uniform(0.75, 1.3)
                + draws.normal(0, 0.05, image.shape)
            )
        case _:
            raise ValueError(f"there is no family of copies '{family}': there are {', '.join(FAMILIES)}")
    made = np.stack([change(image, k).clip(0, 1) for k, image in enumerate(unit)])
    copied: Stored = np.rint(made * top).astype(sources.dtype)
    return copied


def practised(sources: Stored, others: Stored, draws: np.random.Generator) -> Stored:
    """Alter copies of `sources` (N, C, …) in one to three ways and strengths drawn at random: what the score is learned on."""
    top = float(np.iinfo(sources.dtype).max)
    made = [_altered(image / top, other / top, draws) for image, other in zip(sources, others, strict=True)]
    copied: Stored = np.rint(np.stack(made) * top).astype(sources.dtype)
    return copied


def strange(images: Stored, draws: np.random.Generator) -> Stored:
    """Make of each of `images` (N, C, …) something that shows no patient: what a model makes that learned little.

    Their waves in random phases, smooth fields or grain as bright as they are, or one grey.
    """
    top = float(np.iinfo(images.dtype).max)
    made: Stored = np.rint(np.stack([_strange(image / top, draws) for image in images]).clip(0, 1) * top).astype(images.dtype)
    return made


def _strange(image: NDArray[np.float64], draws: np.random.Generator) -> NDArray[np.float64]:
    space = tuple(range(1, image.ndim))
    grain = draws.normal(size=image.shape)
    match draws.choice(["phases", "smooth", "grain", "grey"], p=[0.4, 0.35, 0.15, 0.1]):
        case "phases":
            waves, random = np.fft.rfftn(image, axes=space), np.fft.rfftn(grain, axes=space)
            found: NDArray[np.float64] = np.fft.irfftn(np.abs(waves) * np.exp(1j * np.angle(random)), s=image.shape[1:], axes=space)
            return found
        case "smooth":
            width = math.exp(draws.uniform(math.log(0.01), math.log(0.15))) * image.shape[-1]
            grain = ndimage.gaussian_filter(grain, (0,) + (width,) * len(space), mode="wrap")
        case "grey":
            return np.full(image.shape, draws.uniform())
    return np.asarray(image.mean() + grain / grain.std() * image.std() * math.exp(draws.uniform(-1, 1)))


def _altered(image: NDArray[np.float64], other: NDArray[np.float64], draws: np.random.Generator) -> NDArray[np.float64]:
    """Alter one image: first where it lies, then how bright it is, then what is lost; a blend or a part comes last but for noise."""
    wanted = draws.choice(len(WAYS), draws.choice(3, p=COUNTS) + 1, replace=False, p=SHARES).tolist()
    for number in sorted(wanted):
        image = WAYS[number](image, other, draws).clip(0, 1)
    return image


WAYS: tuple[Callable[[NDArray[np.float64], NDArray[np.float64], np.random.Generator], NDArray[np.float64]], ...] = (
    lambda image, other, draws: np.flip(image, axis=-1 if draws.random() < 0.7 else -2),
    lambda image, other, draws: _turned(image, draws.uniform(-11, 11)),
    lambda image, other, draws: _shifted(image, draws.uniform(-0.1, 0.1)),
    lambda image, other, draws: _enlarged(image, math.exp(draws.uniform(-0.15, 0.25))),
    lambda image, other, draws: _warped(image, draws.uniform(0.01, 0.06), draws),
    lambda image, other, draws: image ** math.exp(draws.uniform(-0.5, 0.5)),
    lambda image, other, draws: (image - 0.5) * draws.uniform(0.6, 1.3) + 0.5,
    lambda image, other, draws: 1 - image,
    lambda image, other, draws: _blurred(image, draws.uniform(0.01, 0.05)),
    lambda image, other, draws: (share := draws.uniform(0.5, 0.95)) * image + (1 - share) * other,
    lambda image, other, draws: _region(image, other, draws.uniform(0.45, 0.9), draws),
    lambda image, other, draws: np.asarray(image + draws.normal(0, draws.uniform(0.01, 0.16), image.shape)),
    lambda image, other, draws: jpeg(image.clip(0, 1), int(draws.integers(4, 50))),
)
"""Ways to alter a copy, in the order in which they follow each other."""
SHARES = np.array([1, 2, 2, 2, 4, 1, 1, 1, 2, 4, 3, 4, 3]) / 30
"""How often each way is drawn: hard ones more often."""
COUNTS = (0.6, 0.25, 0.15)
"""How often one, two and three ways meet in a copy."""
KNOWN = 0.5
"""How often what is blended in, or joined with, is another training image that may be found too; else it is a stranger's."""
