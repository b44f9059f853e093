"""Do n points, one a digit, lie in number order, apart by parity, or on a circle? The mathematics, without a model.

Points are rows, in the order of the digits 0 … n-1; only their differences count, so the mean is removed throughout.

*Spectrum.* The share of the points' variance at each frequency k = 1 … n//2 of the discrete Fourier transform over Z_n;
the shares sum to one (Parseval). A frequency below n/2 has two characters, cosine and sine, k = n/2 only one: parity.
*Circularity* (Zhong et al. 2023, "The Clock and the Pizza"): the mean over the first four principal components of the
largest share of a single frequency in each. Their moduli are odd; at k = n/2 their factor of 2 would count twice, so it
is 1 there. Ten random points then have .48 (95 % point .59), with the factor 2 they would have .53 (.66).
*Circle.* Neither statistic knows a circle from other smooth arrangements: ten points on a straight line have .63, on a
bent one up to .9. So a frequency is called a circle only if it is above its null, *round* (its ellipse is no mere wave
to and fro) and the arrangement *wraps*: 0 and n-1 are as near as neighbours are.

Order, circularity and the spectrum are each the best of many, so they are judged against the same best of many after
the digits' labels are permuted: p = (1 + k) / (1 + N) where k of N permutations reach the observed value.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.stats
from einops import einsum
from jaxtyping import Float, Int

from kc_interp.circuits.modular import power

CIRCULARITY_COMPONENTS = 4
WRAP_LIMIT = 1 / 3
"""Below it the arrangement closes: a circle has 0, a straight line 1, a code of overlapping places .37 or more."""

ROUND_ENOUGH = 0.5
"""The least ratio of an ellipse's axes that is called a circle."""

_RANK_TOLERANCE = 1e-5
_TIE_TOLERANCE = 1e-9
_CHUNK_NUMBERS = 4_000_000


@dataclass(frozen=True)
class Components:
    """Principal components of the digits: coordinates, largest variance first, rising with the digits; variance shares.

    Components without variance are left out, so there are at most n - 1.
    """

    coordinates: Float[np.ndarray, "digit component"]
    share: Float[np.ndarray, " component"]


def centred(points: Float[np.ndarray, "*batch digit d_model"]) -> Float[np.ndarray, "*batch digit d_model"]:
    """The points minus their mean, in float64."""
    points = np.asarray(points, dtype=np.float64)
    return np.asarray(points - points.mean(axis=-2, keepdims=True))


def cosines(points: Float[np.ndarray, "digit d_model"]) -> Float[np.ndarray, "digit digit"]:
    """Cosine between each two digits as seen from their mean. A digit that sits on the mean has cosine 0 to all."""
    points = centred(points)
    length = np.linalg.norm(points, axis=1, keepdims=True)
    unit = np.divide(points, length, out=np.zeros_like(points), where=length > 0)
    return einsum(unit, unit, "one d_model, other d_model -> one other")


def components(points: Float[np.ndarray, "digit d_model"]) -> Components:
    """Principal components. Each component's sign, which is arbitrary, is chosen so that it rises with the digits."""
    left, singular, _ = np.linalg.svd(centred(points), full_matrices=False)
    kept = singular > _RANK_TOLERANCE * singular[0]
    coordinates = (left * singular)[:, kept]
    rises = np.arange(len(coordinates)) @ coordinates >= 0
    return Components(coordinates * np.where(rises, 1, -1), singular[kept] ** 2 / (singular[kept] ** 2).sum())


def variance_shares(points: Float[np.ndarray, "*batch digit d_model"]) -> Float[np.ndarray, "*batch component"]:
    """The share of variance along each principal component, largest first."""
    variances = np.linalg.svd(centred(points), compute_uv=False) ** 2
    return np.asarray(variances / variances.sum(axis=-1, keepdims=True))


def spectrum(points: Float[np.ndarray, "*batch digit d_model"]) -> Float[np.ndarray, "*batch frequency"]:
    """The share of the points' variance at each frequency 1 … n//2."""
    by_frequency = power(centred(points)).sum(axis=-1)
    return np.asarray(by_frequency / by_frequency.sum(axis=-1, keepdims=True))


def circularity(points: Float[np.ndarray, "*batch digit d_model"]) -> Float[np.ndarray, "*batch"]:
    """Mean over the first four principal components of the share of each one's strongest frequency (0 to 1)."""
    left, singular, _ = np.linalg.svd(centred(points), full_matrices=False)
    counted = (singular > _RANK_TOLERANCE * singular[..., :1])[..., :CIRCULARITY_COMPONENTS]
    strongest = np.clip(power(left[..., :CIRCULARITY_COMPONENTS]).max(axis=-2), 0, 1)
    return np.asarray((strongest * counted).sum(axis=-1) / counted.sum(axis=-1))


def order(points: Float[np.ndarray, "*batch digit d_model"]) -> Float[np.ndarray, "*batch"]:
    """The largest |Spearman correlation| between a principal component and the digits, over all components."""
    left, singular, _ = np.linalg.svd(centred(points), full_matrices=False)
    kept = singular > _RANK_TOLERANCE * singular[..., :1]
    ranks = _standard_ranks(left)
    digits = _standard_ranks(np.arange(left.shape[-2], dtype=np.float64)[:, None])[:, 0]
    found = np.abs(einsum(digits, ranks, "digit, ... digit component -> ... component"))
    return np.asarray((found * kept).max(axis=-1))


def _standard_ranks(columns: Float[np.ndarray, "*batch digit column"]) -> Float[np.ndarray, "*batch digit column"]:
    """Ranks (ties shared) with mean 0 and length 1, so that a product of two is Spearman's correlation."""
    ranks = scipy.stats.rankdata(np.round(columns, 10), axis=-2)
    ranks = ranks - ranks.mean(axis=-2, keepdims=True)
    length = np.linalg.norm(ranks, axis=-2, keepdims=True)
    return np.asarray(np.divide(ranks, length, out=np.zeros_like(ranks), where=length > 0))


def roundness(points: Float[np.ndarray, "*batch digit d_model"]) -> Float[np.ndarray, "*batch frequency"]:
    """At each frequency below n/2 the shorter over the longer axis of the ellipse on which it puts the digits.

    1: a circle; 0: a wave along one direction, which moves to and fro and has the same spectrum as a circle.
    """
    points = centred(points)
    waves = np.fft.rfft(points, axis=-2)[..., 1 : (points.shape[-2] + 1) // 2, :]
    size, skew = (np.abs(waves) ** 2).sum(axis=-1), np.abs((waves**2).sum(axis=-1))
    axes = np.divide(size - skew, size + skew, out=np.zeros_like(size), where=size > 0)
    return np.asarray(np.sqrt(np.clip(axes, 0, 1)))


@dataclass(frozen=True)
class Wrap:
    """Does the arrangement close between n-1 and 0? Squared distances throughout.

    `gap`: how much farther 0 and n-1 are apart than neighbours are on average; noise of equal size on every digit drops
    out of it. `line_gap`: the same for the straight line that fits the points best. `ratio`: the plain distance
    0 to n-1 over the distance 0 to 1 (1 on a circle, n-1 on a line).
    """

    gap: Float[np.ndarray, "*batch"]
    line_gap: Float[np.ndarray, "*batch"]
    ratio: Float[np.ndarray, "*batch"]

    @property
    def value(self) -> Float[np.ndarray, "*batch"]:
        """`gap` over `line_gap`: 0 on any circle, 1 on a straight line; NaN where no line fits at all."""
        found = np.full_like(self.gap, np.nan)
        return np.asarray(np.divide(self.gap, self.line_gap, out=found, where=self.line_gap > 0))

    @property
    def closes(self) -> np.ndarray:
        """Near a circle's value. Random points close too: closing alone does not make a circle."""
        return np.asarray(self.gap < WRAP_LIMIT * self.line_gap)


def wrap(points: Float[np.ndarray, "*batch digit d_model"]) -> Wrap:
    """The wrap test."""
    points = centred(points)
    n = points.shape[-2]
    steps = (np.diff(points, axis=-2) ** 2).sum(axis=-1)
    ends = ((points[..., -1, :] - points[..., 0, :]) ** 2).sum(axis=-1)
    digits = np.arange(n) - (n - 1) / 2
    slope = einsum(digits, points, "digit, ... digit d_model -> ... d_model") / (digits**2).sum()
    step_of_line = (slope**2).sum(axis=-1)
    negligible = step_of_line <= _TIE_TOLERANCE * (points**2).sum(axis=(-2, -1)) / n
    ratio = np.full_like(ends, np.inf)
    return Wrap(
        gap=np.asarray(ends - steps.mean(axis=-1)),
        line_gap=np.asarray(np.where(negligible, 0.0, ((n - 1) ** 2 - 1) * step_of_line)),
        ratio=np.asarray(np.sqrt(np.divide(ends, steps[..., 0], out=ratio, where=steps[..., 0] > 0))),
    )


@dataclass(frozen=True)
class Tested:
    """A statistic with its permutation null: the observed value, p, and the null's mean and upper 95 % point."""

    value: float
    p: float
    null_mean: float
    null_95: float


@dataclass(frozen=True)
class Geometry:
    """What the permutation test found. `frequencies[k-1]` is frequency k, its p and 95 % point after the max-statistic.

    `parity` is frequency n/2 among them, so it is corrected likewise; None for an odd n.
    """

    order: Tested
    circularity: Tested
    frequencies: tuple[Tested, ...]
    parity: Tested | None
    roundness: tuple[float, ...]
    wrap: Wrap

    def above_null(self, level: float) -> list[int]:
        """The frequencies k with p below `level`."""
        return [k for k, tested in enumerate(self.frequencies, start=1) if tested.p < level]

    def circles(self, level: float) -> list[int]:
        """The frequencies at which the digits lie on a circle: above the null, round, and the arrangement closes.

        The frequency's own test decides, not circularity's, which a circle among noisy components cannot move far.
        Frequency n/2 separates even from odd and is no circle.
        """
        if not self.wrap.closes:
            return []
        round_ones = {k for k, axes in enumerate(self.roundness, start=1) if axes >= ROUND_ENOUGH}
        return [k for k in self.above_null(level) if k in round_ones]


def geometry(points: Float[np.ndarray, "digit d_model"], rng: np.random.Generator, *, permutations: int) -> Geometry:
    """Every statistic of the points against `permutations` relabellings of the digits.

    For the spectrum each frequency is first put on its null's own scale (mean 0, deviation 1), as k = n/2 has half the
    variance of the others by chance; p is the chance that *any* frequency gets as far (Westfall and Young's single-step
    maxT).
    """
    n = len(points)
    whole = components(points)
    relabelled = rng.permuted(np.tile(np.arange(n), (permutations, 1)), axis=1)
    orders, circularities, spectra = _null(whole, relabelled)
    observed = spectrum(points)
    centre, spread = spectra.mean(axis=0), spectra.std(axis=0)
    farthest = ((spectra - centre) / spread).max(axis=1)
    frequencies = tuple(
        Tested(
            value=float(observed[k]),
            p=_p(float((observed[k] - centre[k]) / spread[k]), farthest),
            null_mean=float(centre[k]),
            null_95=float(centre[k] + spread[k] * np.quantile(farthest, 0.95)),
        )
        for k in range(len(observed))
    )
    return Geometry(
        order=_tested(float(order(points)), orders),
        circularity=_tested(float(circularity(points)), circularities),
        frequencies=frequencies,
        parity=frequencies[-1] if n % 2 == 0 else None,
        roundness=tuple(roundness(points).tolist()),
        wrap=wrap(points),
    )


def _null(
    whole: Components, relabelled: Int[np.ndarray, "permutation digit"]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Order, circularity and spectrum of the points under each relabelling.

    Relabelling the digits permutes the rows and leaves the principal components alone: nothing is decomposed again.
    """
    n, width = whole.coordinates.shape
    ranks = _standard_ranks(whole.coordinates / np.abs(whole.coordinates).max(axis=0))
    digits = _standard_ranks(np.arange(n, dtype=np.float64)[:, None])[:, 0]
    back = np.argsort(relabelled, axis=1)
    orders = np.abs(einsum(digits[back], ranks, "permutation digit, digit c -> permutation c")).max(axis=1)
    circularities, spectra = np.empty(len(relabelled)), np.empty((len(relabelled), n // 2))
    size = max(1, _CHUNK_NUMBERS // (n * width))
    for start in range(0, len(relabelled), size):
        chunk = slice(start, start + size)
        found = power(whole.coordinates[relabelled[chunk]])
        spectra[chunk] = found.sum(axis=-1) / found.sum(axis=(-2, -1))[:, None]
        leading = found[..., :CIRCULARITY_COMPONENTS]
        circularities[chunk] = np.clip(leading.max(axis=-2) / leading.sum(axis=-2), 0, 1).mean(axis=-1)
    return orders, circularities, spectra


def _p(value: float, null: Float[np.ndarray, " permutation"]) -> float:
    """The share of relabellings, the observed one among them, that reach the value (up to rounding)."""
    return float((1 + (null >= value - _TIE_TOLERANCE).sum()) / (1 + len(null)))


def _tested(value: float, null: Float[np.ndarray, " permutation"]) -> Tested:
    return Tested(value, _p(value, null), float(null.mean()), float(np.quantile(null, 0.95)))
