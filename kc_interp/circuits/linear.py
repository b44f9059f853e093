"""What a linear probe reads from activations (Alain & Bengio 2016, https://arxiv.org/abs/1610.01644), and its controls.

A probe is a multinomial logistic regression; values as numbers are read by ridge regression. Held out are whole groups
of rows (all rows of one question), never single rows. The *control task* (Hewitt & Liang 2019,
https://arxiv.org/abs/1909.03368) gives every type of input a random label: what a probe reads of those it has learned
by heart, so that its accuracy less this one, the *selectivity*, is what the activations make easy to read.

What can be read need not be used. To take out what is read, `Discriminants.erase` removes the directions that labels
vary along, obliquely, so that as little else as can be goes with them (Fisher 1936; with all directions it is the
least-squares erasure of Belrose et al. 2023, https://arxiv.org/abs/2306.03819, after which no linear probe reads
anything). The weights of a probe are no good for that: they also point where activations are small or correlated, and
what is encoded stays when they are projected out.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
import torch
from einops import einsum
from jaxtyping import Bool, Float, Int
from torch import Tensor

STRENGTHS = (0.01, 1.0, 100.0)
"""Inverse strengths of the penalty (scikit-learn's C) to choose from, on standardised activations."""

_ALPHAS = (0.01, 0.1, 1.0, 10.0, 100.0, 1000.0)
_MOST_ITERATIONS = 200
_SAME = 1e-6
_FLAT = 1e-8


@dataclass(frozen=True)
class Reading:
    """A fitted probe: label `labels[k]` has the score `features @ weights[k] + bias[k]`."""

    weights: Float[np.ndarray, "label feature"]
    bias: Float[np.ndarray, " label"]
    labels: Int[np.ndarray, " label"]

    @classmethod
    def fit(
        cls, features: Float[np.ndarray, "row feature"], labels: Int[np.ndarray, " row"], strength: float
    ) -> Reading:
        """By L-BFGS from zero: the same rows give the same probe. Needs two different labels."""
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.linear_model import LogisticRegression

        mean, scale = _standard(features)
        model = LogisticRegression(C=strength, max_iter=_MOST_ITERATIONS, tol=1e-3)
        with warnings.catch_warnings():
            # A weak penalty on labels that separate has its optimum far out: the direction is there long before.
            warnings.simplefilter("ignore", ConvergenceWarning)
            model.fit((features - mean) / scale, labels)
        weights, bias = model.coef_ / scale, model.intercept_
        if len(weights) == 1:  # two labels: scikit-learn keeps the second one's score alone
            weights, bias = np.concatenate([-weights, weights]) / 2, np.concatenate([-bias, bias]) / 2
        return cls(weights, bias - weights @ mean, np.asarray(model.classes_))

    def read(self, features: Float[np.ndarray, "row feature"]) -> Int[np.ndarray, " row"]:
        """The label of the highest score."""
        return self.labels[(features @ self.weights.T + self.bias).argmax(axis=1)]


def _standard(
    features: Float[np.ndarray, "row feature"],
) -> tuple[Float[np.ndarray, " feature"], Float[np.ndarray, " feature"]]:
    """Mean and spread of each feature; a constant one keeps its scale."""
    spread = features.std(axis=0)
    return features.mean(axis=0), np.where(spread > _SAME * max(spread.max(initial=0.0), _SAME), spread, 1.0)


def choose_strength(
    features: Float[np.ndarray, "row feature"],
    labels: Int[np.ndarray, " row"],
    groups: Int[np.ndarray, " row"],
    rng: np.random.Generator,
) -> float:
    """The penalty that reads a quarter of the groups best when fitted on the others; of equals the strongest.

    To be given training rows only. The strongest of all where the split leaves one label.
    """
    held = part_of(groups, 0.25, rng)
    if held.all() or not held.any() or len(np.unique(labels[~held])) < 2:
        return STRENGTHS[0]
    right = [
        (Reading.fit(features[~held], labels[~held], strength).read(features[held]) == labels[held]).mean()
        for strength in STRENGTHS
    ]
    return STRENGTHS[int(np.argmax(right))]


def part_of(groups: Int[np.ndarray, " row"], share: float, rng: np.random.Generator) -> Bool[np.ndarray, " row"]:
    """Which rows belong to a random `share` of the groups, rounded to whole groups, at least one."""
    names, index = np.unique(groups, return_inverse=True)
    chosen = np.zeros(len(names), dtype=bool)
    chosen[rng.permutation(len(names))[: max(1, round(share * len(names)))]] = True
    return np.asarray(chosen[index.reshape(-1)])


def control_labels(
    labels: Int[np.ndarray, " row"], types: Int[np.ndarray, " row"], rng: np.random.Generator
) -> Int[np.ndarray, " row"]:
    """The control task: each type has one random label, drawn as often as labels occur (Hewitt & Liang 2019)."""
    names, index = np.unique(types, return_inverse=True)
    return np.asarray(rng.choice(labels, size=len(names))[index.reshape(-1)])


def read_values(
    features: Float[np.ndarray, "row feature"],
    values: Float[np.ndarray, " row"],
    others: Float[np.ndarray, "other feature"],
) -> Float[np.ndarray, " other"]:
    """Ridge regression of values on activations, read from others; its penalty has the least leave-one-out error."""
    from sklearn.linear_model import RidgeCV

    mean, scale = _standard(features)
    return np.asarray(RidgeCV(_ALPHAS).fit((features - mean) / scale, values).predict((others - mean) / scale))


@dataclass(frozen=True)
class Discriminants:
    """The directions along which labels differ most, in units of the activations' own covariance, best first.

    `correlations` are the canonical correlations of activations and labels (0: labels have one mean there, 1: they are
    told apart without error by means). `reads @ (x - mean)` are an activation's coordinates, uncorrelated and of
    variance 1, `writes` what each unit of one adds.
    """

    mean: Float[np.ndarray, " feature"]
    reads: Float[np.ndarray, "direction feature"]
    writes: Float[np.ndarray, "direction feature"]
    correlations: Float[np.ndarray, " direction"]

    @classmethod
    def of(cls, features: Float[np.ndarray, "row feature"], labels: Int[np.ndarray, " row"]) -> Discriminants:
        """There are no more than one fewer than labels, and none where nothing varies."""
        mean = features.mean(axis=0)
        centred = features - mean
        size, axes = np.linalg.eigh(centred.T @ centred / len(features))
        kept = size > max(_FLAT * size.max(initial=0.0), np.finfo(np.float64).tiny)
        spread, axes = np.sqrt(size[kept]), axes[:, kept]
        index = np.unique(labels, return_inverse=True)[1].reshape(-1)
        counts = np.bincount(index)
        sums = np.zeros((len(counts), axes.shape[1]))
        np.add.at(sums, index, centred @ (axes / spread))
        turn, correlations, _ = np.linalg.svd((sums / np.sqrt(counts * len(features))[:, None]).T, full_matrices=False)
        turn, correlations = turn[:, : len(counts) - 1], correlations[: len(counts) - 1]
        return cls(mean, (axes / spread @ turn).T, (axes * spread @ turn).T, correlations)

    def above(self, correlation: float) -> int:
        """How many directions have a larger canonical correlation."""
        return int((self.correlations > correlation).sum())

    def erase(self, activations: Float[Tensor, "row d_model"], directions: int) -> Float[Tensor, "row d_model"]:
        """Activations with the first coordinates set to their mean."""
        mean, reads, writes = (
            torch.from_numpy(part).to(activations)
            for part in (self.mean, self.reads[:directions], self.writes[:directions])
        )
        along = einsum(activations - mean, reads, "row d_model, direction d_model -> row direction")
        return activations - einsum(along, writes, "row direction, direction d_model -> row d_model")


def shares(
    part: Float[np.ndarray, " row"],
    whole: Float[np.ndarray, " row"],
    groups: Int[np.ndarray, " row"],
    weights: Float[np.ndarray, "weighting group"],
) -> Float[np.ndarray, " weighting"]:
    """Sum of `part` over sum of `whole` under each weighting of the groups; NaN where the whole is nothing."""
    sums = [weights @ np.bincount(groups, column, minlength=weights.shape[1]) for column in (part, whole)]
    return np.asarray(np.divide(sums[0], sums[1], out=np.full(len(weights), np.nan), where=sums[1] > 0))
