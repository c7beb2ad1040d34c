"""One likelihood of being a copy out of many measures, learned in the run from training images alone.

Known copies of training images, of random kinds and strengths, are told from training images that are searched for among
those of other patients. Half as many of these are altered in the same ways: noise or blur alone makes no copy, or a cohort of
smooth images would be called one; and some images show no patient at all, for what is unlike any image is no copy either. So the
real held-out images remain for the limit, and the kinds that the self-test counts are not what was learned. The score is the sum of
the log-odds of two: a logistic regression on the measures and the products of pairs of them, which weighs faint evidence, and boosted
trees, which see thresholds.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression

from medpipe.gates.alignment import MEASURES
from medpipe.threads import threads

Values = NDArray[np.float64]
CLIPPED = (-4.0, 8.0)
"""Range of a measure in units of its spread over real images: a single one may not outweigh all others."""
REAL_WEIGHT = 4.0
"""Real images count this much more: a false alarm costs more than a missed kind."""
PAIRED = (
    "aligned_correlation", "aligned_ratio", "pixel_ratio", "information", "next_all", "rest_all", "next_coarse", "next_middle",
    "quarter", "half", "votes", "votes_next", "votes_scale", "patch_next", "straightness",
    "affine_next", "even_information", "even_next", "even_quarter_median",
)  # fmt: skip
"""Measures whose products with each other count: what one is worth depends on another, as likeness does on noise."""
COLUMNS = [MEASURES.index(name) for name in PAIRED]


@dataclass(frozen=True)
class CopyRule:
    """A fitted score."""

    mean: Values
    spread: Values
    linear: LogisticRegression
    trees: HistGradientBoostingClassifier

    @classmethod
    def fit(cls, copied: Values, real: Values) -> CopyRule:
        """Learn to tell measures of copies (P, measures) from those of real images (N, measures)."""
        copied, real = copied[np.isfinite(copied).all(1)], real[np.isfinite(real).all(1)]
        mean, spread = real.mean(0), real.std(0) + 1e-6
        values = np.concatenate([copied, real])
        labels = np.repeat([1, 0], [len(copied), len(real)])
        weights = np.where(labels == 1, 1.0, REAL_WEIGHT)
        linear = LogisticRegression(C=0.2, max_iter=1000)
        trees = HistGradientBoostingClassifier(
            max_iter=80,
            learning_rate=0.08,
            max_leaf_nodes=8,
            min_samples_leaf=15,
            l2_regularization=3,
            early_stopping=False,
            random_state=0,
        )
        with threads(1):
            linear.fit(_paired((values - mean) / spread), labels, weights)
            trees.fit(values, labels, weights)
        return cls(mean, spread, linear, trees)

    def __call__(self, measures: Values) -> Values:
        """Score images (N, measures): (N,), NaN where a measure is."""
        if not len(measures):
            return np.empty(0)
        known = np.asarray(np.isfinite(measures).all(axis=1), dtype=np.bool_)
        values = np.where(known[:, None], measures, 0.0)
        with threads(1):
            odds = self.linear.decision_function(_paired((values - self.mean) / self.spread)) + self.trees.decision_function(values)
        return np.where(known, odds, np.nan)


def _paired(values: Values) -> Values:
    """Append to standardised measures the products of pairs."""
    values = values.clip(*CLIPPED)
    one, two = np.triu_indices(len(COLUMNS))
    chosen = values[:, COLUMNS]
    return np.concatenate([values, chosen[:, one] * chosen[:, two] / 4], 1)
