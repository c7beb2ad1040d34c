"""One likelihood of being a copy out of many measures, learned in the run from training images alone.

Known copies of training images, of random kinds and strengths, are told from training images that are searched for among
the others. So the real held-out images remain for the limit, and the kinds that are counted in the self-test are not what
was learned. The score is the sum of a logistic regression, which weighs faint evidence, and of boosted trees that may
only rise with each measure, which see combinations; each in units of its spread over real images.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression

from medpipe.threads import threads

Values = NDArray[np.float64]
CLIPPED = (-4.0, 8.0)
"""Range of a measure in units of its spread over real images: a single one may not outweigh all others."""
REAL_WEIGHT = 4.0
"""Real images count this much more: a false alarm costs more than a missed kind."""


@dataclass(frozen=True)
class CopyRule:
    """A fitted score."""

    mean: Values
    spread: Values
    linear: Any
    trees: Any
    scale: Values  # (2, 2): mean and spread of each part over real images

    @classmethod
    def fit(cls, copied: Values, real: Values) -> CopyRule:
        """Learn to tell measures of copies (P, measures) from those of real images (N, measures)."""
        copied, real = copied[np.isfinite(copied).all(1)], real[np.isfinite(real).all(1)]
        mean, spread = real.mean(0), real.std(0) + 1e-6
        values = np.concatenate([copied, real])
        labels = np.repeat([1, 0], [len(copied), len(real)])
        weights = np.where(labels == 1, 1.0, REAL_WEIGHT)
        with threads(1):
            linear = LogisticRegression(C=0.3, max_iter=2000).fit(((values - mean) / spread).clip(*CLIPPED), labels, weights)
            trees = HistGradientBoostingClassifier(
                max_iter=80,
                learning_rate=0.08,
                max_leaf_nodes=8,
                min_samples_leaf=15,
                l2_regularization=3,
                monotonic_cst=[1] * values.shape[1],
                early_stopping=False,
                random_state=0,
            ).fit(values, labels, weights)
            rule = cls(mean, spread, linear, trees, np.array([[0.0, 0.0], [1.0, 1.0]]))
            parts = rule._parts(real)
        return cls(mean, spread, linear, trees, np.stack([parts.mean(0), parts.std(0) + 1e-6]))

    def __call__(self, measures: Values) -> Values:
        """Score images (N, measures): (N,), NaN where a measure is."""
        if not len(measures):
            return np.empty(0)
        known = np.isfinite(measures).all(1)
        with threads(1):
            parts = self._parts(np.where(np.isfinite(measures), measures, 0.0))
        return np.where(known, ((parts - self.scale[0]) / self.scale[1]).sum(1), np.nan)

    def _parts(self, values: Values) -> Values:
        linear = self.linear.decision_function(((values - self.mean) / self.spread).clip(*CLIPPED))
        return np.stack([linear, self.trees.decision_function(values)], 1)
