"""The measures of likeness: what each compares, which way is better, and how far from real it may lie.

One measure alone is fooled: blur raises density and coverage, noise raises the Vendi score, copies of the training images beat real
images at every distance to them. So many are judged, each from both sides.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from medpipe.gates import diversity, fidelity
from medpipe.settings import GatesSettings

Margin = Literal["ratio", "spread", "excess", "none"]
Direction = Literal["at most", "at least"]


@dataclass(frozen=True)
class Measure:
    """One measure: `margin` says how `allowed`, a number of the recipe, widens what real images reach; "none" is reported only."""

    name: str
    direction: Direction
    margin: Margin
    setting: str
    meaning: str
    suspicious: bool = False
    """Whether a figure that is better than that of real images is a sign of copied images."""

    def allowed(self, settings: GatesSettings) -> float:
        """Return the number that the recipe allows."""
        return float(getattr(settings, self.setting)) if self.setting else 0.0


def _frechet(name: str, meaning: str) -> Measure:
    return Measure(name, "at most", "ratio", "frechet_ratio_max", meaning, suspicious=True)


MEASURES = (
    _frechet(
        "frechet",
        "Distance between the synthetic and the training images in the features of a network trained here; "
        "images of other real patients are the yardstick.",
    ),
    _frechet("frechet_texture", "The same distance in features of texture (random convolutions): it sees grain, blur and pattern."),
    _frechet(
        "frechet_pixels",
        "The same distance in the layout of light and dark: it sees anatomy that is mirrored, misplaced or lacks variety.",
    ),
    Measure(
        "frechet_spectrum",
        "at most",
        "excess",
        "spectrum_excess_max",
        "The same distance in how power is spread over fine and coarse structure: it sees compression, weak noise and weak blur.",
    ),
    _frechet("frechet_own", "The same distance in the features of the network that the recipe names."),
    Measure("kid", "at most", "spread", "kid_ratio_max", "A second distance in the network's features, which assumes nothing about "
            "their shape: 0 means alike."),
    Measure("mmd", "at most", "excess", "mmd_excess_max", "A third distance in the network's features, between the images' "
            "neighbourhoods (Gaussian kernel): 0 means alike."),
    Measure("mmd_texture", "at most", "excess", "mmd_excess_max", "The same in features of texture: it sees what alters every image "
            "a little."),
    Measure("precision", "at least", "excess", "precision_drop_max", "Share of synthetic images that lie where real images lie: low "
            "means images that no patient would give.", suspicious=True),
    Measure("recall", "at least", "excess", "recall_drop_max", "Share of real images that lie where synthetic images lie: low means "
            "that kinds of patients are missing."),
    Measure("repeats", "at most", "excess", "repeats_excess_max", "Share of synthetic images that have a near twin among the "
            "synthetic images: high means that few images are made over and over."),
    Measure("intensity", "at most", "excess", "intensity_excess_max", "Largest gap between the distributions of mean brightness, "
            "synthetic against real."),
    Measure("intensity_spread", "at most", "excess", "intensity_excess_max", "Largest gap between the distributions of contrast "
            "within the image, synthetic against real."),
    Measure("intensity_detail", "at most", "excess", "intensity_excess_max", "Largest gap between the distributions of fine detail, "
            "synthetic against real: it sees blur and noise."),
    Measure("density", "at least", "none", "", "How many real neighbourhoods hold a synthetic image: low means unlike images, above "
            "the real figure that they crowd in the middle."),
    Measure("coverage", "at least", "none", "", "Share of real neighbourhoods that hold a synthetic image: low means that kinds of "
            "patients are missing."),
    Measure("vendi", "at least", "none", "", "How many wholly different images the sample is worth: low means little variety, noise "
            "raises it."),
)  # fmt: skip
"""Measures in the order of the report; those of a space that a run does not have are left out."""
BY_NAME = {measure.name: measure for measure in MEASURES}
GATED = tuple(measure.name for measure in MEASURES if measure.margin != "none")


@dataclass(frozen=True)
class Sample:
    """Images as the gates see them: features by space (N, d), statistics by name (N,), class numbers (N,), patients (N,)."""

    features: Mapping[str, NDArray[np.float64]]
    statistics: Mapping[str, NDArray[np.float64]]
    strata: NDArray[np.int64]
    patients: NDArray[np.int64] | None = None
    """Number of the patient of each image; None where each image is its own."""

    def __len__(self) -> int:
        return len(self.strata)

    def take(self, rows: NDArray[np.int64]) -> Sample:
        """Return the images at `rows`."""
        return Sample(
            {name: value[rows] for name, value in self.features.items()},
            {name: value[rows] for name, value in self.statistics.items()},
            self.strata[rows],
            None if self.patients is None else self.patients[rows],
        )


Moments = Mapping[str, tuple[NDArray[np.float64], NDArray[np.float64]]]


def moments(train: Sample, shares: Mapping[int, float]) -> Moments:
    """Return mean and covariance of the training images in each space, weighted to the mix of classes `shares`."""
    weights = np.zeros(len(train))
    for number, share in shares.items():
        here = train.strata == number
        weights[here] = share / here.sum()
    return {space: fidelity.moments(values, weights) for space, values in train.features.items()}


def measure(reference: Sample, against: Sample, whole: Moments, twin: float) -> dict[str, float]:
    """Compare `against` with the training split: `whole` its moments, `reference` a draw of it of the same size.

    `twin` is the distance below which two images count as one image repeated.
    """
    found = {}
    for space in whole:
        name = "frechet" if space == "learned" else f"frechet_{space}"
        found[name] = fidelity.frechet(whole[space], fidelity.moments(against.features[space]))
    pair = reference.features["learned"], against.features["learned"]
    found["kid"] = fidelity.kid(*pair)
    if all(np.isfinite(part).all() for part in pair):
        distances = fidelity.Distances.of(*pair)
        found["mmd"] = fidelity.mmd(distances)
        found["precision"], found["recall"] = fidelity.precision_recall(distances)
        found["density"], found["coverage"] = fidelity.density_coverage(distances)
        found["repeats"] = float((nearest(distances.made) < twin).mean())
        found["vendi"] = diversity.vendi(pair[1])
    else:
        found |= dict.fromkeys(("mmd", "precision", "recall", "density", "coverage", "repeats", "vendi"), math.nan)
    texture = fidelity.Distances.of(reference.features["texture"], against.features["texture"])
    found["mmd_texture"] = fidelity.mmd(texture)
    for name, statistic in zip(("intensity", "intensity_spread", "intensity_detail"), fidelity.STATISTICS, strict=True):
        found[name] = fidelity.ks(reference.statistics[statistic], against.statistics[statistic])
    return {measure.name: found[measure.name] for measure in MEASURES if measure.name in found}


def nearest(within: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return each image's distance to the nearest other one, of distances (N, N)."""
    return np.asarray(np.partition(within, 1, axis=1)[:, 1])
