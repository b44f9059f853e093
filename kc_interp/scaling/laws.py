"""What decides how large a model must be? Laws of threshold against complexity, over tasks that share their parts.

Every law predicts y = log10 n (n: threshold in parameters) from a complexity K > 0:

    constant  y = c            power        y = c + e · log10 K     (n ∝ K^e)
    linear    n = A + B · K    exponential  y = c + k · K

Two traps. **Direction**: an exponent got by inverting a regression of K on n is 1/r² times the direct one (with
K ∝ n^0.34 and r² = .6 it is 2.94 against 1.76); `directions` gives both, the errors-in-variables fit (odrpack) between
them, and the predictor's range in dex. **Dependence**: the 15 subsets of four operations are not 15 independent points,
and four operations are too few to resample. `Crossed` gives each operation an effect of its own, averaged over a
subset's operations, and integrates over its size, so its interval is the one to quote. AICc and the t-intervals of
`directions` count tasks as independent.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float
from odrpack import odr_fit
from scipy.optimize import brentq, least_squares, minimize
from scipy.special import ndtr
from scipy.stats import chi2, norm, t

from kc_interp.errors import DataError
from kc_interp.scaling.thresholds import LEVEL

Form = Literal["constant", "linear", "power", "exponential"]
FORMS: tuple[Form, ...] = ("constant", "linear", "power", "exponential")
FEW_TASKS = 6
"""With so few AICc's correction for a law of two coefficients and a spread is 10 or more above the constant's."""

_TAIL = (1 + LEVEL) / 2
_SCATTERS_DEX = np.geomspace(0.005, 1.0, 14)
_PART_DEX = 0.3
"""Scale of the half-normal prior of how much operations differ."""

_PART_SDS_DEX = norm.ppf(0.5 + (np.arange(10) + 0.5) / 20) * _PART_DEX


@dataclass(frozen=True, eq=False)
class Tasks:
    """One point a task: its `complexity` (> 0) and threshold `y` (log10 parameters).

    `parts` says which operations each task holds. `x_sd` and `y_sd` are standard errors in dex of log10 complexity
    (its spread over compressors, say) and of the threshold (its posterior's), 0 where none is known.
    """

    names: tuple[str, ...]
    complexity: Float[np.ndarray, " task"]
    y: Float[np.ndarray, " task"]
    parts: Bool[np.ndarray, "task part"]
    x_sd: Float[np.ndarray, " task"]
    y_sd: Float[np.ndarray, " task"]

    @classmethod
    def of(
        cls,
        names: Sequence[str],
        complexity: Float[np.ndarray, " task"],
        y: Float[np.ndarray, " task"],
        *,
        x_sd: float | Float[np.ndarray, " task"] = 0.0,
        y_sd: float | Float[np.ndarray, " task"] = 0.0,
    ) -> Tasks:
        """Tasks named after their operations ("MAX+SUM"). Raises DataError for fewer than four or a complexity ≤ 0."""
        if len(names) < 4 or len(set(names)) < len(names):
            raise DataError(f"a law needs at least four tasks, each once; got {', '.join(names) or 'none'}")
        if (complexity <= 0).any() or not np.isfinite(y).all():
            raise DataError("complexities are positive and thresholds finite; leave censored tasks out and say so")
        if np.ptp(complexity) == 0:
            raise DataError(f"all tasks have complexity {complexity[0]:g}; it cannot predict anything")
        known = sorted({part for name in names for part in name.split("+")})
        parts = np.asarray([[part in name.split("+") for part in known] for name in names])
        n = len(names)
        return cls(tuple(names), complexity, y, parts, np.broadcast_to(x_sd, n), np.broadcast_to(y_sd, n))

    @property
    def part_names(self) -> tuple[str, ...]:
        return tuple(sorted({part for name in self.names for part in name.split("+")}))

    @property
    def x(self) -> Float[np.ndarray, " task"]:
        return np.log10(self.complexity)

    @property
    def range_dex(self) -> float:
        """What an exponent stands on: the predictor's range in dex."""
        return float(np.ptp(self.x))

    def take(self, keep: Bool[np.ndarray, " task"]) -> Tasks:
        """The tasks of a mask, with all parts."""
        names = tuple(name for name, kept in zip(self.names, keep, strict=True) if kept)
        rows = (getattr(self, field)[keep] for field in ("complexity", "y", "parts", "x_sd", "y_sd"))
        return Tasks(names, *rows)


@dataclass(frozen=True)
class FormFit:
    """One law fitted by least squares on y. Errors are root mean squares in dex.

    `left_out_part` predicts every task that holds an operation from those that do not, averaged over operations; None
    where too few are left. `weight` is the Akaike weight among the forms compared. Of four tasks `aicc` is infinite for
    every form but the constant, and up to FEW_TASKS its correction decides. `coefficients` are c, then e or k; of the
    linear law y at the smallest and the largest complexity.
    """

    form: Form
    coefficients: tuple[float, ...]
    aicc: float
    weight: float
    error: float
    left_out_task: float
    left_out_part: float | None


@dataclass(frozen=True)
class Exponent:
    """An exponent e of n ∝ K^e with its 95 % interval (None: unbounded), by a named `method`, and what that `means`."""

    method: str
    means: str
    value: float
    low: float | None
    high: float | None
    r2: float
    range_dex: float


def compare_forms(tasks: Tasks) -> tuple[FormFit, ...]:
    """Every form, the lowest AICc (Hurvich & Tsai 1989) first."""
    rows = []
    for form in FORMS:
        coefficients = _least_squares(form, tasks.complexity, tasks.y)
        error = tasks.y - _predict(form, coefficients, tasks.complexity)
        n, k = len(tasks.y), len(coefficients) + 1
        spread = max(float(error @ error) / n, 1e-300)
        correction = 2 * k * (k + 1) / (n - k - 1) if n > k + 1 else math.inf
        aicc = n * (math.log(2 * math.pi * spread) + 1) + 2 * k + correction
        rows.append((form, coefficients, aicc, math.sqrt(spread)))
    least = min(row[2] for row in rows)
    total = sum(math.exp((least - row[2]) / 2) for row in rows)
    fits = [
        FormFit(
            form,
            tuple(coefficients.tolist()),
            aicc,
            math.exp((least - aicc) / 2) / total,
            error,
            _rms(left_out_errors(tasks, form)),
            _left_out_part(tasks, form),
        )
        for form, coefficients, aicc, error in rows
    ]
    return tuple(sorted(fits, key=lambda fit: fit.aicc))


def left_out_errors(tasks: Tasks, form: Form) -> Float[np.ndarray, " task"]:
    """What each task's threshold is beyond its prediction from all the other tasks, in dex."""
    return np.concatenate([_held_out(tasks, form, np.arange(len(tasks.y)) == i) for i in range(len(tasks.y))])


def left_out_part_errors(tasks: Tasks, form: Form) -> dict[str, float | None]:
    """For each operation, the error in dex on all tasks with it of the law fitted to all tasks without.

    None where fewer than three tasks are without it, or they share one complexity.
    """
    found: dict[str, float | None] = {}
    for part, held in zip(tasks.part_names, tasks.parts.T, strict=True):
        rest = tasks.complexity[~held]
        possible = len(rest) >= 3 and np.ptp(rest) > 0
        found[part] = _rms(_held_out(tasks, form, held)) if possible else None
    return found


def influence(tasks: Tasks) -> dict[str, float]:
    """How much the direct exponent changes when each task is left out."""
    full = _slope(tasks.x, tasks.y)
    rest = (np.arange(len(tasks.x)) != i for i in range(len(tasks.x)))
    return {name: _slope(tasks.x[keep], tasks.y[keep]) - full for name, keep in zip(tasks.names, rest, strict=True)}


def directions(tasks: Tasks) -> tuple[Exponent, ...]:
    """The exponent by regression of n on K, of K on n inverted, by errors in variables, and with crossed effects."""
    return direct(tasks), inverted(tasks), errors_in_variables(tasks), Crossed(tasks).exponent


def direct(tasks: Tasks) -> Exponent:
    """Least squares of log10 n on log10 K. It predicts n from a measured K; errors in K shrink it."""
    slope, error = _regression(tasks.x, tasks.y)
    half = float(t.ppf(_TAIL, len(tasks.x) - 2)) * error
    means = "log n regressed on log K: predicts n from K; errors in K bias it towards 0"
    return Exponent("direct", means, slope, slope - half, slope + half, _r2(tasks), tasks.range_dex)


def inverted(tasks: Tasks) -> Exponent:
    """1/β of K ∝ n^β (the paper's way). It is the direct exponent over r², inflated by all scatter of K about the law.

    The interval is None at an end where that of β reaches 0.
    """
    beta, error = _regression(tasks.y, tasks.x)
    half = float(t.ppf(_TAIL, len(tasks.x) - 2)) * error
    low, high = (1 / (beta + half), 1 / (beta - half)) if abs(beta) > half else (None, None)
    means = f"log K regressed on log n (K ∝ n^{beta:.2f}) and inverted: the direct exponent divided by r²"
    return Exponent("inverted", means, 1 / beta, low, high, _r2(tasks), tasks.range_dex)


def errors_in_variables(tasks: Tasks) -> Exponent:
    """Orthogonal distance regression (odrpack) weighted by x_sd and y_sd, tasks independent.

    Scatter of n about the law is added to y_sd until residuals are as large as their errors say. With x_sd = 0 it is
    the direct regression.
    """
    scatter = 0.0
    if _odr(tasks, scatter)[2] > 1:
        top = 10 * float(np.std(tasks.y)) + 1e-6
        scatter = float(brentq(lambda extra: _odr(tasks, extra)[2] - 1, 0.0, top, xtol=1e-4))
    slope, error, _ = _odr(tasks, scatter)
    half = float(t.ppf(_TAIL, len(tasks.x) - 2)) * error
    means = f"orthogonal distance regression, errors of K as given and {scatter:.2f} dex of scatter about the law"
    return Exponent("errors in variables", means, slope, slope - half, slope + half, _r2(tasks), tasks.range_dex)


def huber(tasks: Tasks, delta: float = 1e-3) -> float:
    """The exponent by Huber's loss on residuals of ln n, L-BFGS from a grid of starts (Besiroglu et al. 2024).

    https://arxiv.org/abs/2404.10102. At delta = 1e-3 it is nearly least absolute deviations: far from the direct one,
    a few tasks decide that. No interval: theirs resamples points, which tasks that share operations do not allow.
    """
    x = tasks.x - tasks.x.mean()
    centre = np.asarray([tasks.y.mean(), _slope(tasks.x, tasks.y)])
    reach = (0.5 * np.std(tasks.y) + 0.1) * np.asarray([1.0, 1 / np.std(x)])

    def loss(step: np.ndarray) -> tuple[float, np.ndarray]:
        level, exponent = centre + step * reach
        residual = math.log(10) * (tasks.y - level - exponent * x)
        bent = np.clip(residual, -delta, delta)
        gradient = -math.log(10) * np.asarray([bent.sum(), bent @ x]) * reach
        return float(bent @ (residual - bent / 2)) / delta, gradient / delta

    starts = itertools.product((-1.0, 0.0, 1.0), repeat=2)
    ends = [minimize(loss, np.asarray(start), jac=True, method="L-BFGS-B") for start in starts]
    return float(centre[1] + min(ends, key=lambda end: end.fun).x[1] * reach[1])


@dataclass(frozen=True, eq=False)
class Crossed:
    """The power law with crossed effects: y = c + e·ξ + mean of the operations' effects + scatter, x = ξ + error.

    The posterior is on a grid of the exponent, the scatter and the spread of operations, with c and the effects
    integrated out exactly: flat in e and c, log-uniform in the scatter (.005 to 1 dex), half-normal (.3 dex) in the
    spread. True complexities are taken as normal (structural errors in variables), their variance integrated over.
    """

    tasks: Tasks
    slopes: int = 41

    @cached_property
    def exponent(self) -> Exponent:
        """The posterior median and central 95 % interval."""
        grid, log = self._refined
        mass = _normal(log).sum(axis=(0, 2, 3))
        edges = np.append(grid - (grid[1] - grid[0]) / 2, grid[-1] + (grid[1] - grid[0]) / 2)
        low, middle, high = np.interp((1 - _TAIL, 0.5, _TAIL), np.append(0.0, np.cumsum(mass)), edges).tolist()
        means = "posterior median, operations shared between tasks and errors of K accounted for"
        return Exponent("crossed effects", means, middle, low, high, _r2(self.tasks), self.tasks.range_dex)

    def predict(
        self, complexity: float, parts: Bool[np.ndarray, " part"], x_sd: float = 0.0, y_sd: float = 0.0
    ) -> tuple[float, float, float]:
        """A left-out task's threshold (log10 parameters): median and 95 % interval of its prediction.

        `parts` says which of the operations it holds. With `y_sd` it is the threshold that would be measured with that
        standard error, without it the true one.
        """
        grid, _ = self._refined
        log, mean, variance = self._likelihood(grid, (math.log10(complexity), parts, x_sd))
        weights, sd = _normal(log), np.sqrt(variance + y_sd**2)
        ends = float((mean - 6 * sd).min()), float((mean + 6 * sd).max())

        def quantile(share: float) -> float:
            return float(brentq(lambda y: (weights * ndtr((y - mean) / sd)).sum() - share, *ends, xtol=1e-4))

        return quantile(0.5), quantile(1 - _TAIL), quantile(_TAIL)

    @cached_property
    def _refined(self) -> tuple[np.ndarray, np.ndarray]:
        """The exponents that have any weight, and the log posterior there."""
        slope, error = _regression(self.tasks.x, self.tasks.y)
        reach = 12 * error + 6 * _PART_DEX / np.std(self.tasks.x) / math.sqrt(len(self.tasks.x)) + abs(slope)
        grid = np.linspace(slope - reach, slope + reach, self.slopes)
        for _ in range(2):
            mass = _normal(self._likelihood(grid)[0]).sum(axis=(0, 2, 3))
            kept = np.flatnonzero(mass > 1e-5 * mass.max())
            step = grid[1] - grid[0]
            grid = np.linspace(grid[kept[0]] - step, grid[kept[-1]] + step, self.slopes)
        return grid, self._likelihood(grid)[0]

    def _likelihood(
        self, slopes: np.ndarray, new: tuple[float, np.ndarray, float] | None = None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Log posterior on [variance of ξ, slope, scatter, spread]; with `new`, also mean and variance of its y."""
        each = [self._given(true_variance, slopes, new) for true_variance in self._true_variances()]
        log, mean, variance = (np.stack(parts) for parts in zip(*each, strict=True))
        return log, mean, variance

    def _true_variances(self) -> list[float]:
        """Equally likely values of the variance of true log complexities; one where K has no error."""
        x, error = self.tasks.x, float(np.mean(self.tasks.x_sd**2))
        if error == 0:
            return [math.inf]
        squares = float(((x - x.mean()) ** 2).sum())
        total = squares / chi2.ppf((np.arange(5) + 0.5) / 5, len(x) - 1)
        return [max(value, 0.05 * squares / len(x)) for value in (total - error).tolist()]

    def _given(
        self, true_variance: float, slopes: np.ndarray, new: tuple[float, np.ndarray, float] | None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        tasks = self.tasks
        shares = tasks.parts / tasks.parts.sum(axis=1, keepdims=True)
        x, blur = _shrunk(tasks.x, tasks.x_sd, float(tasks.x.mean()), true_variance)
        noise = (slopes[:, None, None] ** 2) * blur + _SCATTERS_DEX[:, None] ** 2 + tasks.y_sd**2
        residual = tasks.y - slopes[:, None] * x
        columns = np.stack([np.broadcast_to(1.0, residual.shape), residual], axis=-1)
        spread = _PART_SDS_DEX**2
        # Woodbury: V = noise + spread · shares sharesᵀ, so only matrices as large as there are operations are inverted.
        weighted = shares / noise[..., None]
        inner = np.swapaxes(weighted, -1, -2) @ shares
        cross = np.swapaxes(weighted, -1, -2) @ columns[:, None]
        plain = np.swapaxes(columns[:, None] / noise[..., None], -1, -2) @ columns[:, None]
        core = np.eye(shares.shape[1]) + spread[:, None, None] * inner[:, :, None]
        solved = np.linalg.solve(core, cross[:, :, None])
        gram = plain[:, :, None] - spread[:, None, None] * (np.swapaxes(cross, -1, -2)[:, :, None] @ solved)
        ones, both, squares = gram[..., 0, 0], gram[..., 0, 1], gram[..., 1, 1]
        volume = np.log(noise).sum(axis=-1)[..., None] + np.linalg.slogdet(core)[1]
        log = -(volume + np.log(ones) + squares - both**2 / ones) / 2
        if new is None:
            return log, log, log
        new_x, new_parts, new_sd = new
        share = new_parts / max(int(new_parts.sum()), 1)
        centre, new_blur = _shrunk(np.asarray([new_x]), np.asarray([new_sd]), float(tasks.x.mean()), true_variance)
        constant = both / ones
        # The effects' posterior: spread · sharesᵀ V⁻¹ residual = spread · core⁻¹ cross.
        onto = spread[:, None] * np.squeeze(share @ solved)
        mean = constant + slopes[:, None, None] * centre[0] + onto[..., 1] - onto[..., 0] * constant
        effects = np.linalg.solve(core, np.broadcast_to(share[:, None], (*core.shape[:-1], 1)))[..., 0] @ share
        scatter = _SCATTERS_DEX[:, None] ** 2 + slopes[:, None, None] ** 2 * new_blur[0]
        return log, mean, scatter + spread * effects + (1 - onto[..., 0]) ** 2 / ones


@dataclass(frozen=True)
class Better:
    """Two complexity measures compared by the root mean square error of tasks left out one at a time, in dex.

    `difference` is b's error minus a's: negative, b predicts better. Its 95 % interval is over new draws of operations'
    effects and scatter.
    """

    a: float
    b: float
    difference: float
    low: float
    high: float

    @property
    def decided(self) -> bool:
        return self.low > 0 or self.high < 0


def better_predictor(a: Tasks, b: Tasks, rng: np.random.Generator, resamples: int = 1_000) -> Better:
    """Which of two measures of the same tasks predicts thresholds better, by power laws.

    Tasks that share operations cannot be resampled, so the interval is of a parametric bootstrap (basic): both measures
    in one regression, its residuals split into operations' effects and scatter by their likelihood.
    """
    if a.names != b.names or not np.array_equal(a.y, b.y):
        raise DataError("the two measures must be of the same tasks, in one order, with the same thresholds")
    design = np.column_stack([np.ones(len(a.x)), a.x, b.x])
    mean, covariance = _mixed(design, a.y, a.parts / a.parts.sum(axis=1, keepdims=True))
    root = np.linalg.cholesky(covariance)
    drawn = np.concatenate([a.y[None], mean + rng.standard_normal((resamples, len(a.y))) @ root.T])
    errors = [left_out_rms(tasks.x, drawn) for tasks in (a, b)]
    gaps = errors[1] - errors[0]
    low, high = np.quantile(gaps[1:], (1 - _TAIL, _TAIL)).tolist()
    centre = float(gaps[1:].mean())
    found = float(gaps[0])
    return Better(float(errors[0][0]), float(errors[1][0]), found, found - (high - centre), found + (centre - low))


def _mixed(
    design: Float[np.ndarray, "task column"], y: Float[np.ndarray, " task"], shares: Float[np.ndarray, "task part"]
) -> tuple[Float[np.ndarray, " task"], Float[np.ndarray, "task task"]]:
    """Fitted mean and covariance of a regression with crossed effects, spread and scatter averaged over their REML."""
    # Measures may be multiples of each other (bits and bytes): the space they span is what is fitted.
    basis, size, _ = np.linalg.svd(design, full_matrices=False)
    design = basis[:, size > 1e-9 * size[0]]
    each = []
    for spread in _PART_SDS_DEX:
        for scatter in _SCATTERS_DEX:
            covariance = scatter**2 * np.eye(len(y)) + spread**2 * shares @ shares.T
            inverse = np.linalg.inv(covariance)
            gram = design.T @ inverse @ design
            mean = design @ np.linalg.solve(gram, design.T @ inverse @ y)
            gap = y - mean
            log = -(np.linalg.slogdet(covariance)[1] + np.linalg.slogdet(gram)[1] + gap @ inverse @ gap) / 2
            each.append((log, mean, covariance))
    weights = _normal(np.asarray([log for log, _, _ in each]))
    mean = sum(w * m for w, (_, m, _) in zip(weights, each, strict=True))
    covariance = sum(w * c for w, (_, _, c) in zip(weights, each, strict=True))
    return np.asarray(mean), np.asarray(covariance)


def left_out_rms(x: Float[np.ndarray, " task"], y: Float[np.ndarray, "draw task"]) -> Float[np.ndarray, " draw"]:
    """Leave-one-out error of straight lines, by the hat matrix."""
    design = np.column_stack([np.ones(len(x)), x])
    hat = design @ np.linalg.pinv(design)
    errors = (y - y @ hat) / (1 - np.diag(hat))
    return np.sqrt((errors**2).mean(axis=1))


def _shrunk(x: np.ndarray, error: np.ndarray, mean: float, true_variance: float) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance of the true values given the measured ones, both normal."""
    if math.isinf(true_variance):
        return x, np.zeros_like(x)
    kept = true_variance / (true_variance + error**2)
    return mean + kept * (x - mean), true_variance * (1 - kept)


def _held_out(tasks: Tasks, form: Form, held: Bool[np.ndarray, " task"]) -> Float[np.ndarray, " held"]:
    ends = float(tasks.complexity.min()), float(tasks.complexity.max())
    coefficients = _least_squares(form, tasks.complexity[~held], tasks.y[~held], ends)
    return tasks.y[held] - _predict(form, coefficients, tasks.complexity[held], ends)


def _left_out_part(tasks: Tasks, form: Form) -> float | None:
    errors = [error for error in left_out_part_errors(tasks, form).values() if error is not None]
    return math.fsum(errors) / len(errors) if errors else None


def _least_squares(
    form: Form, complexity: np.ndarray, y: np.ndarray, ends: tuple[float, float] | None = None
) -> Float[np.ndarray, " coefficient"]:
    """Coefficients in the order of `_predict`."""
    if form == "constant":
        return np.asarray([y.mean()])
    z = np.log10(complexity) if form == "power" else complexity
    slope = _slope(z, y)
    constant = float(y.mean() - slope * z.mean())
    if form != "linear":
        return np.asarray([constant, slope])
    ends = ends or (float(complexity.min()), float(complexity.max()))
    start = np.asarray([constant + slope * end for end in ends])
    return least_squares(lambda at: _predict("linear", at, complexity, ends) - y, start).x


def _predict(
    form: Form, coefficients: np.ndarray, complexity: np.ndarray, ends: tuple[float, float] | None = None
) -> Float[np.ndarray, " task"]:
    """y by a law. The linear one is told by y at its two ends, which keeps n positive between them."""
    if form == "constant":
        return np.full(len(complexity), coefficients[0])
    if form != "linear":
        return coefficients[0] + coefficients[1] * (np.log10(complexity) if form == "power" else complexity)
    low, high = ends or (float(complexity.min()), float(complexity.max()))
    share = (complexity - low) / (high - low)
    n = (1 - share) * 10 ** coefficients[0] + share * 10 ** coefficients[1]
    return np.log10(np.maximum(n, 1.0))


def _odr(tasks: Tasks, scatter: float) -> tuple[float, float, float]:
    """Slope, its standard error, and the residual variance that should be 1."""
    # A known complexity cannot move: a weight that is very large says so without a second branch.
    weight_x = 1 / np.maximum(tasks.x_sd, 1e-6) ** 2
    weight_y = 1 / np.maximum(tasks.y_sd**2 + scatter**2, 1e-8)
    slope = _slope(tasks.x, tasks.y)
    centre, start = tasks.x.mean(), [float(tasks.y.mean()), slope]

    def line(x: np.ndarray, beta: np.ndarray) -> np.ndarray:
        return beta[0] + beta[1] * (x - centre)

    found = odr_fit(line, tasks.x, tasks.y, start, weight_x=weight_x, weight_y=weight_y, maxit=200)
    return float(found.beta[1]), float(found.sd_beta[1]), float(found.res_var)


def _slope(x: np.ndarray, y: np.ndarray) -> float:
    return float((x - x.mean()) @ y / ((x - x.mean()) ** 2).sum())


def _regression(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Slope and its standard error."""
    slope = _slope(x, y)
    gap = y - y.mean() - slope * (x - x.mean())
    return slope, math.sqrt(float(gap @ gap) / (len(x) - 2) / float(((x - x.mean()) ** 2).sum()))


def _r2(tasks: Tasks) -> float:
    return float(np.corrcoef(tasks.x, tasks.y)[0, 1] ** 2)


def _rms(errors: np.ndarray) -> float:
    return math.sqrt(float((errors**2).mean()))


def _normal(log: np.ndarray) -> np.ndarray:
    weights = np.exp(log - log.max())
    return weights / weights.sum()
