"""How does a model arrange its digits: in number order, apart by parity, on a circle, or as chance would?

Asked of the embedding, of the unembedding and of each block's mean representation of the digits in questions. What the
statistics are, and why none is believed without its null, is said in `number_geometry`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from kc_interp.errors import ProbeError, SpecError
from kc_interp.finding import Cell, Figure, Finding, Number, Table
from kc_interp.probe import Subject
from kc_interp.statistics import finite
from kc_interp.tokens import Tokens
from kc_probes import number_geometry as geometry
from kc_probes.digit_means import DigitFit, residuals
from kc_probes.untrained import initial

LEVEL = 0.05
FEWEST_DIGITS = 4
FEWEST_PERMUTATIONS = 1_000

Interval = tuple[float | None, float | None]


@dataclass(frozen=True)
class Place:
    """One set of points, in a key and in words, and what was found there.

    `intervals` and `before` (the same model before training) are by the keys of `measure`; the weights of a model are
    known exactly, so that there `intervals` is empty.
    """

    key: str
    name: str
    points: Float[np.ndarray, "digit d_model"]
    found: geometry.Geometry
    before: Mapping[str, float | None]
    intervals: Mapping[str, Interval]

    @property
    def exact(self) -> bool:
        return not self.intervals

    def interval(self, key: str) -> Interval:
        return self.intervals.get(key, (None, None))


def measure(points: Float[np.ndarray, "*batch digit d_model"]) -> dict[str, Float[np.ndarray, "*batch"]]:
    """Every statistic of the points by its key."""
    shares, waves, axes = geometry.variance_shares(points), geometry.spectrum(points), geometry.roundness(points)
    wrap = geometry.wrap(points)
    return {
        "order": geometry.order(points),
        "circularity": geometry.circularity(points),
        "wrap": wrap.value,
        "ends": wrap.ratio,
        **{f"fourier.k{k}": waves[..., k - 1] for k in range(1, waves.shape[-1] + 1)},
        **{f"roundness.k{k}": axes[..., k - 1] for k in range(1, axes.shape[-1] + 1)},
        **{f"variance.pc{c}": shares[..., c - 1] for c in range(1, min(2, shares.shape[-1]) + 1)},
    }


def _intervals(resampled: Float[np.ndarray, "resample digit d_model"]) -> dict[str, Interval]:
    """95 % percentile intervals; none for a statistic that most resamples do not have."""
    found: dict[str, Interval] = {}
    for key, values in measure(resampled).items():
        there = values[np.isfinite(values)]
        if 2 * len(there) > len(values):
            found[key] = float(np.quantile(there, 0.025)), float(np.quantile(there, 0.975))
    return found


@dataclass(frozen=True)
class EmbeddingGeometry:
    """Number order, parity, Fourier spectrum, circularity and the wrap test, wherever digits are represented.

    `chains`: test items whose questions give the mean representations; `permutations` of the digits make each null;
    `resamples` of the chains make the intervals of the mean representations. The weights are the whole population and
    have none: how they vary between trainings is a question for several seeds.
    """

    chains: int = 512
    permutations: int = 2_000
    resamples: int = 400

    def __post_init__(self) -> None:
        if self.permutations < FEWEST_PERMUTATIONS:
            raise SpecError(
                f"permutations is {self.permutations}; at least {FEWEST_PERMUTATIONS} are needed to judge p < {LEVEL}"
            )
        if min(self.chains, self.resamples) < 2:
            raise SpecError("chains and resamples must each be at least 2 for an interval")

    def run(self, subject: Subject) -> Finding:
        """Measure every place. Raises ProbeError when the task has no digits, or too few, or they do not count up."""
        tokens, labels = digit_tokens(subject.name, subject.tokens)
        places = list(self._places(subject, tokens, labels))
        return Finding(
            probe="embedding-geometry",
            subject=subject.name,
            title="How the model arranges its digits",
            sentence=_sentence(places, learned=subject.learned),
            status="unlearned" if subject.learned is False else "ok",
            numbers=tuple(number for place in places for number in self._numbers(place)),
            tables=(_table(places, self.permutations),),
            figures=tuple(figure for place in places for figure in _figures(place, labels)),
            settings=dataclasses.asdict(self),
        )

    def _places(self, subject: Subject, tokens: Int[np.ndarray, " digit"], labels: Sequence[str]) -> Iterator[Place]:
        """Embedding, unembedding, and each block; the untrained twin is the same run before its first step."""
        spec = subject.checkpoint.spec
        untrained = initial(subject)
        chains = subject.items(self.chains, "embedding-geometry: questions")
        ids = subject.ids(chains)[:, :, : int(chains.prompts.max())]
        digits = _digits_shown(ids[0].cpu().numpy(), chains.prompts, tokens)
        rng = subject.rng("embedding-geometry: resamples")
        counts = rng.multinomial(len(chains), np.full(len(chains), 1 / len(chains)), size=self.resamples)
        fit = DigitFit.of(digits, np.concatenate([np.ones((1, len(chains))), counts]), labels)
        once = DigitFit.of(digits, np.ones((1, len(chains))), labels)

        def place(key: str, name: str, points: np.ndarray, resampled: np.ndarray | None, twin: np.ndarray) -> Place:
            if not np.ptp(points, axis=0).any():
                raise ProbeError(f"{subject.name}: all digits are one point in {name}, so nothing is arranged")
            generator = subject.rng(f"embedding-geometry: {key}")
            return Place(
                key,
                name,
                points,
                geometry.geometry(points, generator, permutations=self.permutations),
                before={key: finite(value) for key, value in measure(twin).items()},
                intervals={} if resampled is None else _intervals(resampled),
            )

        for key, name, of in (("embed", "the embedding", _embedded), ("unembed", "the unembedding", _unembedded)):
            yield place(key, name, of(subject.params, tokens), None, of(untrained, tokens))
        trained_streams = residuals(subject.params, spec.model, ids)
        untrained_streams = residuals(untrained, spec.model, ids)
        for index, (stream, fresh_stream) in enumerate(zip(trained_streams, untrained_streams, strict=True)):
            means = fit.means(stream)
            yield place(f"block{index}", f"block {index}", means[0], means[1:], once.means(fresh_stream)[0])

    def _numbers(self, place: Place) -> Iterator[Number]:
        """The numbers of one place; the keys are the same for every model with as many digits and blocks."""
        found, half = place.found, len(place.found.frequencies)
        values = {key: finite(value) for key, value in measure(place.points).items()}

        def number(
            key: str,
            title: str,
            *,
            of: str,
            control: float | None,
            control_says: str,
            higher_means: str,
            note: str = "",
        ) -> Number:
            return Number(
                f"{place.key}.{key}",
                f"{_capital(place.name)}: {title}",
                values[of],
                *place.interval(of),
                n=None if place.exact else self.chains,
                unit="exact" if place.exact else "input",
                control=control,
                control_says=control_says,
                higher_means=higher_means,
                note=note,
            )

        def tested(key: str, title: str, it: geometry.Tested, corrected: str, *, higher_means: str, of: str) -> Number:
            return number(
                key,
                title,
                of=of,
                control=it.null_95,
                control_says=f"95 % point of {self.permutations:,} relabellings of the digits",
                higher_means=higher_means,
                note=f"p = {it.p:.2g}, {corrected}; mean of the relabellings {it.null_mean:.2f}",
            )

        yield tested(
            "order",
            "Number order",
            found.order,
            "best of all components on both sides",
            higher_means="a principal component follows the digits' order more closely (largest |rank correlation|)",
            of="order",
        )
        over_frequencies = f"corrected for looking at {half} frequencies"
        if found.parity is None:
            yield Number(
                f"{place.key}.parity",
                f"{_capital(place.name)}: Parity",
                None,
                unit="exact" if place.exact else "input",
                note=f"{len(place.points)} digits, an odd number, have no frequency n/2 and so no parity character",
            )
        else:
            yield tested(
                "parity",
                "Parity",
                found.parity,
                over_frequencies,
                higher_means="more of the variance between digits separates even from odd",
                of=f"fourier.k{half}",
            )
        yield tested(
            "circularity",
            "Circularity",
            found.circularity,
            "best frequency of each component on both sides",
            higher_means="the first four components are each closer to one frequency (so are a line's: see wrap)",
            of="circularity",
        )
        yield number(
            "wrap",
            "Wrap test (circle 0, line 1)",
            of="wrap",
            control=1.0,
            control_says="points on a straight line",
            higher_means="the first and last digit are farther apart than neighbours are: no circle",
            note=f"closes below {geometry.WRAP_LIMIT:.2f}; the ends' distance over that of the first two digits: "
            f"{_shown(values['ends'])} (circle 1, line {len(place.points) - 1})"
            if values["wrap"] is not None
            else "no straight line fits these points at all, so there is none to compare with",
        )
        for k, frequency in enumerate(found.frequencies, start=1):
            yield tested(
                f"fourier.k{k}",
                f"Share of frequency {k}",
                frequency,
                over_frequencies,
                higher_means=f"more of the variance between digits goes in {k} wave{'s' * (k > 1)} over them",
                of=f"fourier.k{k}",
            )
        for key in (key for key in values if key.startswith("variance.")):
            yield number(
                key,
                f"Variance along component {key[-1]}",
                of=key,
                control=place.before[key],
                control_says="the same model before training",
                higher_means="the digits differ in fewer directions",
            )


def digit_tokens(name: str, tokens: Tokens) -> tuple[Int[np.ndarray, " digit"], list[str]]:
    """The tokens that are digits, by rising value, and their symbols.

    Raises ProbeError when there are fewer than four, when a symbol is no whole number, or when values are left out.
    """
    ids = [token for token, kind in enumerate(tokens.classes) if kind == "digit"]
    symbols = [tokens.symbols[token] for token in ids]
    if not ids:
        raise ProbeError(
            f"{name}: this task has no symbols of the class 'digit' ({' '.join(tokens.symbols)}), "
            "and embedding-geometry asks how digits are arranged; leave it out with --only"
        )
    try:
        values = [int(symbol) for symbol in symbols]
    except ValueError:
        raise ProbeError(
            f"{name}: the digits {' '.join(symbols)} are not all whole numbers, so they have no order to compare with"
        ) from None
    if len(ids) < FEWEST_DIGITS:
        raise ProbeError(
            f"{name}: {len(ids)} digits ({' '.join(symbols)}) have too few orders to tell one from chance; "
            f"at least {FEWEST_DIGITS} are needed"
        )
    order = np.argsort(values, kind="stable")
    if not (np.diff(np.asarray(values)[order]) == 1).all():
        raise ProbeError(
            f"{name}: the digits {' '.join(symbols)} do not count up by one, so they are not Z_{len(ids)}; "
            "train with every digit in the vocabulary (vocabulary = 'all')"
        )
    return np.asarray(ids)[order], [symbols[index] for index in order]


def _digits_shown(
    ids: Int[np.ndarray, "example pos"], prompts: Int[np.ndarray, " example"], tokens: Int[np.ndarray, " digit"]
) -> Int[np.ndarray, "example pos"]:
    """The digit at each position of a question, -1 where there is none."""
    digit_of = np.full(max(int(ids.max()), int(tokens.max())) + 1, -1)
    digit_of[tokens] = np.arange(len(tokens))
    return np.where(np.arange(ids.shape[1]) < prompts[:, None], digit_of[ids], -1)


def _embedded(params: Mapping[str, Tensor], tokens: Int[np.ndarray, " digit"]) -> Float[np.ndarray, "digit d_model"]:
    return params["embed.W_E"][0, torch.from_numpy(tokens)].detach().double().cpu().numpy()


def _unembedded(params: Mapping[str, Tensor], tokens: Int[np.ndarray, " digit"]) -> Float[np.ndarray, "digit d_model"]:
    return params["unembed.W_U"][0].mT[torch.from_numpy(tokens)].detach().double().cpu().numpy()


def _sentence(places: Sequence[Place], *, learned: bool | None) -> str:
    """What holds over the null and where, what does not, and what this does not show."""

    def where(holds: Callable[[geometry.Geometry], bool]) -> str:
        return _listed([place.name for place in places if holds(place.found)]) or "nowhere"

    parts = [f"number order: {where(lambda found: found.order.p < LEVEL)}"]
    if places[0].found.parity is None:
        parts.append(f"parity: not defined for an odd number of digits ({len(places[0].points)})")
    else:
        parts.append(f"parity: {where(lambda found: found.parity is not None and found.parity.p < LEVEL)}")
    circles = [
        f"{place.name} (frequency {_listed([str(k) for k in place.found.circles(LEVEL)])})"
        for place in places
        if place.found.circles(LEVEL)
    ]
    parts.append(f"a circle that is round and closes: {_listed(circles) or 'nowhere'}")
    spoken = (
        f"Beyond what relabelled digits give (p < {LEVEL}, each place by itself, corrected for the best of many) — "
        + "; ".join(parts)
        + ". This says where the digits of this one checkpoint lie, not that the model computes with it, "
        "and not what another seed would give."
    )
    if learned is False:
        return f"This model has not learned its task, so nothing is claimed about how it solves it. {spoken}"
    return spoken


def _listed(names: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))


def _table(places: Sequence[Place], permutations: int) -> Table:
    rows: list[tuple[Cell, ...]] = []
    for place in places:
        found, half = place.found, len(place.found.frequencies)
        top = min(range(half), key=lambda k: (found.frequencies[k].p, -found.frequencies[k].value)) + 1
        tested = [("number order", "order", found.order), ("circularity", "circularity", found.circularity)]
        if found.parity is not None:
            tested.append(("parity", f"fourier.k{half}", found.parity))
        tested.append((f"frequency {top}, the most above its null", f"fourier.k{top}", found.frequencies[top - 1]))
        for title, key, it in tested:
            ends = (it.null_mean, it.null_95, it.p)
            rows.append((place.name, title, it.value, *place.interval(key), place.before[key], *ends))
        plain = [("wrap (circle 0, line 1)", "wrap", finite(found.wrap.value))]
        plain.append((f"ends' distance (circle 1, line {len(place.points) - 1})", "ends", finite(found.wrap.ratio)))
        if top <= len(found.roundness):
            plain.append((f"roundness of frequency {top}", f"roundness.k{top}", found.roundness[top - 1]))
        for title, key, value in plain:
            rows.append((place.name, title, value, *place.interval(key), place.before[key], None, None, None))
    return Table(
        title="Arrangement of the digits, against relabelled digits",
        columns=("place", "statistic", "value", "low", "high", "before training", "null mean", "null 95 %", "p"),
        rows=tuple(rows),
        note=(
            f"The null: {permutations:,} relabellings of the digits, each with the same best-of-many; "
            "p = (1 + k) / (1 + N) when k of N reach the value. "
            f"The {len(places)} places are tested one by one: expect a false alarm in one of {round(1 / LEVEL)} tests. "
            "low, high: 95 % bootstrap over questions; weights are known exactly and have none. "
            "Ends' distance: last digit to the first, over the first to the second. "
            f"Roundness: shorter over longer axis of the frequency's ellipse; a circle needs {geometry.ROUND_ENOUGH}."
        ),
    )


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _shown(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.2f}"


def _figures(place: Place, labels: Sequence[str]) -> Iterator[Figure]:
    found = place.found
    yield Figure(
        "heatmap",
        f"Digit by digit: cosine in {place.name}",
        shows="How alike two digits' directions are, seen from the mean of all digits: 1 the same, -1 opposite. Bands "
        "along the diagonal are number order, bands that come back in the corners a circle, a chequerboard parity.",
        refuted_by="Bands as clear after the digits' labels are shuffled; the bars below test that.",
        data={
            "x": list(labels), "y": list(labels), "z": geometry.cosines(place.points).tolist(), "zmid": 0,
            "x_title": "digit", "y_title": "digit", "z_title": "cosine",
        },
    )  # fmt: skip
    whole = geometry.components(place.points)
    flat = np.pad(whole.coordinates, ((0, 0), (0, 1)))[:, :2]
    shares = [*whole.share, 0.0]
    yield Figure(
        "scatter",
        f"The digits' two main directions in {place.name}",
        shows="Each digit at its first two principal components, joined in number order. "
        f"Number order: p = {found.order.p:.2g}.",
        refuted_by="A line or circle in two components means little when they hold a small share of the variance, and "
        f"a circle must close: a wrap value below {geometry.WRAP_LIMIT:.2f} (here {_shown(finite(found.wrap.value))}; "
        "a line has 1).",
        data={
            "points": [
                {"x": float(x), "y": float(y), "label": label} for (x, y), label in zip(flat, labels, strict=True)
            ],
            "x_title": f"component 1 ({shares[0]:.0%} of variance)",
            "y_title": f"component 2 ({shares[1]:.0%} of variance)",
            "path": True,
        },
    )  # fmt: skip
    frequencies = range(1, len(found.frequencies) + 1)
    ends = [place.interval(f"fourier.k{k}") for k in frequencies]
    bounds = {} if place.exact else {"low": [low for low, _ in ends], "high": [high for _, high in ends]}
    yield Figure(
        "bars",
        f"Fourier spectrum of the digits in {place.name}",
        shows="The share of the variance between digits at each frequency: k waves over the whole row of digits"
        + ("; the last one is parity (even against odd)." if found.parity is not None else "."),
        refuted_by="A bar below the null's 95 % point, which allows for the best of all frequencies. "
        "A high first bar alone is no circle: a straight line has one too.",
        data={
            "x": [str(k) for k in frequencies],
            "series": [
                {"name": "this model", "y": [it.value for it in found.frequencies], **bounds},
                {"name": "null, 95 % point", "y": [it.null_95 for it in found.frequencies]},
                {"name": "before training", "y": [place.before[f"fourier.k{k}"] for k in frequencies]},
            ],
            "x_title": "frequency k", "y_title": "share of variance",
        },
    )  # fmt: skip
