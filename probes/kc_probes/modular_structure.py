"""Modular structure: does the model compute with residues, on which frequencies, and as a clock or as a pizza?

Every single step of one template is run (1,000 for three digits). Three questions about them:

- *Spectrum*: how much of what varies in the answer's logits, and in each block's MLP neurons where the answer is
  predicted, depends on the sum of the operands mod n alone, at each frequency k up to n/2? Logits of any model that
  answers sums do; neurons of a table do not, so that they are what tells. The control gives the digits other values.
- *Restricted and excluded loss* (Nanda et al. 2023): the loss when the logits keep only the strongest frequencies of
  the sum, and when they lose them, for steps seen in training and for held-out ones.
- *Distance irrelevance* and *gradient symmetricity* (Zhong et al. 2023): a clock has 1 and 0, a pizza 0 and 1. They are
  defined for two operands; of three, each pair is read with the third one fixed, and the mean over all is taken.

What is exact here is exact for this checkpoint; whether another seed gives the same is for several of them to say.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from kc_interp.circuits import modular
from kc_interp.errors import ProbeError, SpecError
from kc_interp.finding import Cell, Figure, Finding, Number, Table
from kc_interp.model.forward import Sites, forward
from kc_interp.probe import Subject
from kc_interp.steps import Steps, all_steps, neurons
from kc_probes.untrained import initial

FEWEST_RELABELLINGS = 100
_RESAMPLES = 500


@dataclass(frozen=True)
class ModularStructure:
    """Reads every single step of `component` (of the whole task when it has none) with most operands.

    `relabellings` of the digits make the controls. Key frequencies are the fewest that hold the share `hold` of what
    the sum explains in the logits. Gradients are taken in all steps, or in `gradients` of them where there are more.
    """

    component: str | None = "SUM"
    relabellings: int = FEWEST_RELABELLINGS
    hold: float = 0.9
    gradients: int = 1_000

    def __post_init__(self) -> None:
        if self.relabellings < FEWEST_RELABELLINGS:
            raise SpecError(f"relabellings is {self.relabellings}; at least {FEWEST_RELABELLINGS} are needed")
        if not 0 < self.hold <= 1:
            raise SpecError(f"hold is {self.hold}; it is a share, above 0 and at most 1")
        if self.gradients < 2:
            raise SpecError(f"gradients is {self.gradients}; an interval needs at least 2 steps")

    def run(self, subject: Subject) -> Finding:
        """Raises ProbeError when digits are not the numbers of Z_n, or not every combination of operands is a step."""
        residues = Residues.of(subject, all_steps(subject, self.component), self.relabellings)
        ran, before = (Ran.of(subject, params, residues) for params in (subject.params, initial(subject)))

        places = [Place.of(*part, twin, residues) for part, (*_, twin) in zip(ran.parts, before.parts, strict=True)]
        losses = _losses(subject, residues, ran.logits, places[0], self.hold)
        rows = np.arange(len(ran.logits))
        if len(rows) > self.gradients:
            rows = np.sort(subject.rng("modular-structure: gradients").choice(rows, self.gradients, replace=False))
        ways = Ways.of(residues, ran, before, rows)
        numbers = (
            *(number for place in places for number in place.numbers(residues)),
            *losses.numbers(residues),
            *ways.numbers(residues, subject.rng("modular-structure: resamples")),
        )
        return Finding(
            probe="modular-structure",
            subject=subject.name,
            title="Residues: which frequencies of the sum are computed with, and in which way",
            sentence=_sentence(subject, residues, ran, places, losses, numbers),
            status="unlearned" if subject.learned is False else "ok",
            numbers=numbers,
            tables=(_spectrum_table(places, residues), ways.table()),
            figures=(*(place.figure(residues) for place in places), losses.figure(), _cells_figure(residues, ran)),
            settings=dataclasses.asdict(self),
        )


@dataclass(frozen=True)
class Residues:
    """Single steps over Z_n: operands as residues, answers as tokens, and the digits' other values for controls."""

    steps: Steps
    ids: Int[Tensor, "example pos"]
    answers: Int[np.ndarray, " example"]
    digits: Int[np.ndarray, " digit"]
    """The token of each residue."""

    values: Int[np.ndarray, "relabelling digit"]
    places: tuple[int, ...]
    held_out: Bool[np.ndarray, " example"]

    @classmethod
    def of(cls, subject: Subject, steps: Steps, relabellings: int) -> Residues:
        """Raises ProbeError when the digits are not 0 … n-1, too few to relabel, or the answers are no digits."""
        task, chains = subject.task, steps.chains
        codes = steps.digits
        symbols = [task.symbols[code] for code in codes]
        if symbols != [str(value) for value in range(len(symbols))]:
            raise ProbeError(
                f"{subject.name}: the digits {' '.join(symbols)} are not the numbers 0 to {len(symbols) - 1} in order, "
                f"so that they are not Z_{len(symbols)}; modular-structure needs a task that computes with residues; "
                "leave it out with --only"
            )
        if not np.isin(chains.answer_symbols(), codes).all():
            raise ProbeError(f"{subject.name}: some answers are no digits; modular-structure needs residues as answers")
        tokens = subject.tokens
        return cls(
            steps,
            subject.ids(chains)[0, :, : steps.query + 1],
            tokens.encode(chains.answer_symbols()),
            tokens.encode(codes),
            modular.relabellings(len(codes), relabellings, subject.rng("modular-structure: relabellings")),
            tuple(np.flatnonzero(np.isin(chains.symbols[0, : steps.query], codes)).tolist()),
            subject.split.held_out(task, chains),
        )

    @property
    def operands(self) -> Int[np.ndarray, "example operand"]:
        return self.steps.operands

    @property
    def modulus(self) -> int:
        return len(self.digits)

    @cached_property
    def labelled(self) -> Int[np.ndarray, "labelling example operand"]:
        """The operands as they are, then with each relabelling."""
        return np.concatenate([self.operands[None], self.values[:, self.operands]])

    @property
    def control_says(self) -> str:
        return f"95 % point of {len(self.values)} relabellings of the digits"


@dataclass(frozen=True)
class Ran:
    """What one model does on every step: the answer's logits, what each MLP's neurons take, and the model itself."""

    params: Mapping[str, Tensor]
    subject: Subject
    logits: Float[np.ndarray, "example d_vocab"]
    parts: tuple[tuple[str, str, np.ndarray], ...]
    """Key, title and values (example × feature): the digits' logits less their mean, then each block's neurons."""

    @classmethod
    def of(cls, subject: Subject, params: Mapping[str, Tensor], residues: Residues) -> Ran:
        spec = subject.checkpoint.spec.model
        sites = Sites(record={f"blocks.{block}.mlp.hook_post" for block in range(spec.depth)})
        with torch.no_grad():
            run = forward(params, spec, residues.ids[None], sites=sites)[0, :, -1].double().cpu().numpy()
        of_digits = run[:, residues.digits]
        found = [("logits", "Logits of the answer", of_digits - of_digits.mean(axis=1, keepdims=True))]
        for block in range(spec.depth):
            found.append((f"mlp{block}", f"MLP neurons of block {block}", neurons(params, spec, sites, block)))
        return cls(params, subject, run, tuple(found))

    def correct(self, residues: Residues) -> Float[np.ndarray, " example"]:
        """The logit of the right answer."""
        return self.logits[np.arange(len(self.logits)), residues.answers]


@dataclass(frozen=True)
class Place:
    """The spectrum of one place, as it is (`shares`, None where nothing varies) and under each relabelling."""

    key: str
    title: str
    shares: Float[np.ndarray, " frequency"] | None
    null: Float[np.ndarray, "relabelling frequency"]
    untrained: Float[np.ndarray, " frequency"] | None
    pair: Float[np.ndarray, " labelling"] | None
    """Of three or more operands, what depends on the sum of two alone, all pairs together; the first is as it is."""

    @classmethod
    def of(cls, key: str, title: str, values: np.ndarray, before: np.ndarray, residues: Residues) -> Place:
        modulus, labelled = residues.modulus, residues.labelled
        found = modular.sum_spectrum(values, labelled.sum(axis=-1), modulus)
        twin = modular.sum_spectrum(before, residues.operands.sum(axis=1)[None], modulus)
        pair = None
        if found is not None and labelled.shape[-1] > 2:
            of_pairs = [
                modular.sum_spectrum(values, labelled[..., list(two)].sum(axis=-1), modulus)
                for two in modular.pairs_of(labelled.shape[-1])
            ]
            pair = np.sum([own.sum(axis=1) for own in of_pairs if own is not None], axis=0)
        half = np.zeros((0, modulus // 2))
        return cls(
            key,
            title,
            None if found is None else found[0],
            half if found is None else found[1:],
            None if twin is None else twin[0],
            pair,
        )

    def numbers(self, residues: Residues) -> Iterator[Number]:
        n, steps, count = residues.modulus, len(residues.operands), residues.operands.shape[1]

        def number(key: str, title: str, value: float, null: np.ndarray, higher_means: str, note: str) -> Number:
            return Number(
                f"{self.key}.{key}",
                f"{self.title}: {title}",
                value,
                n=steps,
                unit="exact",
                control=float(np.quantile(null, 0.95)),
                control_says=residues.control_says,
                higher_means=higher_means,
                note=note,
            )

        titles = {
            "sum": "variance that depends on the sum mod n alone",
            "strongest": "variance at the strongest frequency of the sum",
            "parity": "variance that depends on the parity of the sum alone",
            "pair-sum": "variance that depends on the sum mod n of two operands alone",
        }
        if self.shares is None:
            for key, title in titles.items():
                yield Number(f"{self.key}.{key}", f"{self.title}: {title}", None, unit="exact", note="nothing varies")
            return
        by_chance = (n - 1) / (n**count - 1)
        yield number(
            "sum", titles["sum"], float(self.shares.sum()), self.null.sum(axis=1),
            "more of what varies is ordered by the sum mod n", f"values random for every step have {by_chance:.3f}",
        )  # fmt: skip
        k = int(self.shares.argmax()) + 1
        yield number(
            "strongest", titles["strongest"], float(self.shares[k - 1]), self.null.max(axis=1),
            "one frequency of the sum carries more", f"k = {k} of {n // 2}; the strongest on both sides",
        )  # fmt: skip
        if n % 2:
            note = f"{n} residues, an odd number, have no frequency n/2 and so no parity"
            yield Number(f"{self.key}.parity", f"{self.title}: {titles['parity']}", None, unit="exact", note=note)
        else:
            yield number(
                "parity", titles["parity"], float(self.shares[-1]), self.null[:, -1],
                "even sums are told from odd ones more", f"k = {n // 2}, which has one character, the others two",
            )  # fmt: skip
        if self.pair is None:
            note = "of two operands the pair's sum is the sum"
            yield Number(f"{self.key}.pair-sum", f"{self.title}: {titles['pair-sum']}", None, unit="exact", note=note)
        else:
            pairs = len(modular.pairs_of(count))
            yield number(
                "pair-sum", titles["pair-sum"], float(self.pair[0]), self.pair[1:],
                "operands are summed two by two before the rest comes in", f"all {pairs} pairs of operands together",
            )  # fmt: skip

    def figure(self, residues: Residues) -> Figure:
        frequencies = range(1, residues.modulus // 2 + 1)
        blank: list[float | None] = [None for _ in frequencies]
        series = [("this model", blank if self.shares is None else self.shares.tolist())]
        if self.shares is not None:
            highest = float(np.quantile(self.null.max(axis=1), 0.95))
            series.append(("relabelled digits, 95 % point of the best", [highest for _ in frequencies]))
        series.append(("untrained weights", blank if self.untrained is None else self.untrained.tolist()))
        return Figure(
            "bars",
            f"Frequencies of the sum: {self.title.replace('Logits', 'logits')}",
            f"The share of the variance over all {len(residues.operands)} single steps that depends on the sum of the "
            f"operands mod {residues.modulus} alone, by frequency. "
            + ("Nothing varies here." if self.shares is None else f"Together {self.shares.sum():.0%}."),
            "Bars no higher than those of relabelled digits. In the logits high bars say no more than that the answers "
            "are right: those of a table that was looked up have them too.",
            {
                "x": [str(k) for k in frequencies],
                "series": [{"name": name, "y": y} for name, y in series],
                "x_title": "frequency k",
                "y_title": "share of variance",
            },
        )


@dataclass(frozen=True)
class Losses:
    """Losses in nats of whole, restricted and excluded logits; `null` is the loss under each relabelling."""

    keys: tuple[int, ...]
    steps: Mapping[str, int]
    value: Mapping[tuple[str, str], float]
    null: Mapping[tuple[str, str], Float[np.ndarray, " relabelling"]]

    def numbers(self, residues: Residues) -> Iterator[Number]:
        kept = f"frequenc{'y' if len(self.keys) == 1 else 'ies'} {', '.join(map(str, sorted(self.keys)))}"
        chance = float(np.log(residues.modulus))
        titles = {"full": "Loss of the whole logits", "restricted": "Restricted loss", "excluded": "Excluded loss"}
        means = {
            "full": "steps are answered worse",
            "restricted": "the frequencies kept do not suffice for the answer",
            "excluded": "the answer needs the frequencies removed",
        }
        for which, count in self.steps.items():
            for kind, title in titles.items():
                key, name = f"{kind}.{which}", f"{title}: {which} steps"
                if (kind, which) not in self.value:
                    note = f"{count} such steps, too few to split their logits"
                    if not count:
                        note = "there are no such steps: this split holds out none"
                    elif not self.keys:
                        note = "the logits do not vary"
                    yield Number(key, name, None, unit="exact", note=note)
                    continue
                level, control_says, note = 0.5, "the same chance for every digit", "nats"
                if kind != "full":
                    level = 0.05 if kind == "restricted" else 0.95
                    control_says = f"{level:.0%} point of {len(residues.values)} relabellings of the digits"
                    note = f"nats; {'keeps' if kind == 'restricted' else 'loses'} {kept}"
                control = chance if kind == "full" else float(np.quantile(self.null[kind, which], level))
                yield Number(
                    key,
                    name,
                    self.value[kind, which],
                    n=count,
                    unit="exact",
                    control=control,
                    control_says=control_says,
                    higher_means=means[kind],
                    note=note,
                )

    def figure(self) -> Figure:
        kinds = ("full", "restricted", "excluded")
        series = []
        for which in self.steps:
            series.append({"name": which, "y": [self.value.get((kind, which)) for kind in kinds]})
            null = [self.null.get((kind, which)) for kind in kinds]
            level = [None if own is None else float(np.quantile(own, 0.5)) for own in null]
            series.append({"name": f"{which}, relabelled digits", "y": level})
        return Figure(
            "bars",
            "Loss of parts of the logits",
            f"Nats a single step: of the whole logits, of the frequencies {', '.join(map(str, sorted(self.keys)))} of "
            "the sum and the mean alone, and without these; beside the median of relabelled digits.",
            "A restricted loss as high, or an excluded loss as low, as with relabelled digits. If neither is, these "
            "frequencies of the logits hold the answer; that it was computed there does not follow.",
            {
                "x": ["whole", "restricted", "excluded"],
                "series": series,
                "x_title": "logits",
                "y_title": "loss in nats",
            },
        )


def _losses(
    subject: Subject, residues: Residues, logits: Float[np.ndarray, "example d_vocab"], place: Place, hold: float
) -> Losses:
    """Seen and held-out steps, each split by themselves."""
    keys = () if place.shares is None or place.shares.sum() <= 0 else modular.key_frequencies(place.shares, hold)
    value: dict[tuple[str, str], float] = {}
    null: dict[tuple[str, str], np.ndarray] = {}
    sums = residues.labelled.sum(axis=-1)
    steps = {"seen": ~residues.held_out, "held-out": residues.held_out}
    for which, rows in steps.items():
        own, answers = logits[rows], residues.answers[rows]
        if rows.any():
            value["full", which] = modular.loss_nats(own, answers)
        split = [modular.parts(own, labelling[rows], residues.modulus, keys) for labelling in sums] if keys else []
        found = [
            (modular.loss_nats(part.restricted, answers), modular.loss_nats(part.excluded, answers))
            for part in split
            if part is not None
        ]
        for index, kind in enumerate(("restricted", "excluded")):
            if found:
                value[kind, which] = found[0][index]
                null[kind, which] = np.asarray([losses[index] for losses in found[1:]])
    return Losses(keys, {which: int(rows.sum()) for which, rows in steps.items()}, value, null)


@dataclass(frozen=True)
class Ways:
    """Clock or pizza: distance irrelevance and gradient symmetricity by pair, with what they are compared with."""

    irrelevance: Mapping[tuple[int, int], float | None]
    null: Float[np.ndarray, " relabelling"]
    untrained: Mapping[tuple[int, int], float | None]
    cosines: Mapping[tuple[int, int], Float[np.ndarray, "example target"]]
    untrained_cosines: Mapping[tuple[int, int], Float[np.ndarray, "example target"]]
    steps: int

    @classmethod
    def of(cls, residues: Residues, ran: Ran, before: Ran, rows: Int[np.ndarray, " row"]) -> Ways:
        modulus = residues.modulus
        correct = ran.correct(residues)
        labelled = [modular.distance_irrelevance(correct, own, modulus) for own in residues.labelled]
        null = [modular.mean_of(own) for own in labelled[1:]]
        ids = residues.ids[torch.from_numpy(rows).to(residues.ids.device)]

        def cosines(model: Ran) -> dict[tuple[int, int], np.ndarray]:
            spec = model.subject.checkpoint.spec.model
            gradients = modular.operand_gradients(model.params, spec, ids, residues.places, residues.digits.tolist())
            return modular.symmetricity(gradients, model.params["embed.W_E"][0][residues.digits])

        return cls(
            labelled[0],
            np.asarray([value for value in null if value is not None]),
            modular.distance_irrelevance(before.correct(residues), residues.operands, modulus),
            cosines(ran),
            cosines(before),
            len(residues.operands),
        )

    def numbers(self, residues: Residues, rng: np.random.Generator) -> Iterator[Number]:
        value, of_many = modular.mean_of(self.irrelevance), residues.operands.shape[1] > 2
        mean = "; mean over pairs of operands, the others fixed" if of_many else ""
        key, title = "distance-irrelevance", "Distance irrelevance"
        if value is None or not len(self.null):
            yield Number(key, title, None, unit="exact", note="the right answer's logit is the same in all steps")
        else:
            before = modular.mean_of(self.untrained)
            yield Number(
                key,
                title,
                value,
                n=self.steps,
                unit="exact",
                control=float(np.quantile(self.null, 0.05)),
                control_says=f"5 % point of {len(residues.values)} relabellings of the digits",
                higher_means="how far two operands lie apart decides less of the right answer's logit",
                note=f"a clock gives 1, a pizza 0, noise almost 1: only a low value says anything; untrained weights "
                f"{_shown(before)}{mean}",
            )
        key, title = "gradient-symmetricity", "Gradient symmetricity"
        cosines = np.stack(list(self.cosines.values()))
        value = modular.mean_cosine(cosines)
        if value is None:
            yield Number(key, title, None, note="no logit of a digit has a gradient in two operands")
            return
        exact = cosines.shape[1] == self.steps
        low, high = (None, None) if exact else _interval(cosines, rng)
        control = modular.mean_cosine(np.stack(list(self.untrained_cosines.values())))
        yield Number(
            key,
            title,
            value,
            low,
            high,
            n=cosines.shape[1],
            unit="exact" if exact else "input",
            control=control,
            control_says="untrained weights" if control is not None else "untrained weights have no gradient here",
            higher_means="operands act through one function of them all, such as their mean",
            note=f"a clock gives 0, and so does a table; a pizza 1, and so do random weights with even attention; "
            f"{np.isfinite(cosines).mean():.0%} of the pairs of gradients are not zero{mean}",
        )

    def table(self) -> Table:
        rows: tuple[tuple[Cell, ...], ...] = tuple(
            (
                f"{pair[0] + 1} and {pair[1] + 1}",
                self.irrelevance[pair],
                self.untrained[pair],
                modular.mean_cosine(self.cosines[pair]),
                modular.mean_cosine(self.untrained_cosines[pair]),
            )
            for pair in self.irrelevance
        )
        return Table(
            "Clock or pizza, by pair of operands",
            (
                "operands", "distance irrelevance", "untrained weights",
                "gradient symmetricity", "untrained weights: symmetricity",
            ),
            rows,
            "A clock gives 1 and 0, a pizza 0 and 1; a table of single steps looks like a clock here. Pairs are read "
            "with the other operands fixed, and the mean over these is taken.",
        )  # fmt: skip


def _interval(cosines: Float[np.ndarray, "pair example target"], rng: np.random.Generator) -> tuple[float, float]:
    """95 % bootstrap interval of the mean over steps, all pairs and targets of a step together."""
    there = np.isfinite(cosines)
    sums, counts = np.where(there, cosines, 0).sum(axis=(0, 2)), there.sum(axis=(0, 2))
    draws = rng.multinomial(len(sums), np.full(len(sums), 1 / len(sums)), size=_RESAMPLES)
    low, high = np.quantile((draws @ sums) / np.maximum(draws @ counts, 1), [0.025, 0.975])
    return float(low), float(high)


def _sentence(
    subject: Subject,
    residues: Residues,
    ran: Ran,
    places: list[Place],
    losses: Losses,
    numbers: tuple[Number, ...],
) -> str:
    of = {number.key: number for number in numbers}
    right = float((ran.logits.argmax(axis=1) == residues.answers).mean())
    says = [f"All {len(residues.operands)} single steps mod {residues.modulus}; {right:.1%} answered rightly."]
    for place in places:
        own = of[f"{place.key}.sum"]
        if own.value is None or own.control is None:
            says.append(f"{place.title}: nothing varies.")
            continue
        beyond = "more" if own.value > own.control + 1e-9 else "no more"
        says.append(
            f"{place.title}: {own.value:.0%} of the variance depends on the sum mod n alone ({beyond} than the "
            f"{own.control:.0%} of relabelled digits)."
        )
    restricted, excluded = (of[f"{kind}.held-out"] for kind in ("restricted", "excluded"))
    which = "held-out"
    if restricted.value is None:
        restricted, excluded, which = of["restricted.seen"], of["excluded.seen"], "seen"
    if restricted.value is not None and excluded.value is not None:
        says.append(
            f"On {which} steps the loss is {of[f'full.{which}'].value:.2f} nats, with {len(losses.keys)} of "
            f"{residues.modulus // 2} frequencies of the sum alone {restricted.value:.2f}, without them "
            f"{excluded.value:.2f}."
        )
    away, symmetric = of["distance-irrelevance"], of["gradient-symmetricity"]
    says.append(
        f"Distance irrelevance {_shown(away.value)} and gradient symmetricity {_shown(symmetric.value)}: a clock would "
        "have 1 and 0, a pizza 0 and 1. Noise has an irrelevance near 1 and a table both of a clock's values, so that "
        "these two alone show no clock."
    )
    says.append(
        "Frequencies of the logits say which answer is given, not how it was found: those of a table of sums are the "
        "same. Where neurons depend on the sum no more than with relabelled digits, nothing speaks for arithmetic; "
        "where they do, that shows a code for the sum, not the steps that lead to it. One checkpoint; other seeds are "
        "not spoken of."
    )
    if subject.learned is False:
        says.insert(0, "This model has not learned its task, so nothing is claimed about how it solves it.")
    return " ".join(says)


def _spectrum_table(places: list[Place], residues: Residues) -> Table:
    rows: list[tuple[Cell, ...]] = []
    for place in places:
        for index in range(residues.modulus // 2):
            rows.append(
                (
                    place.title,
                    index + 1,
                    None if place.shares is None else float(place.shares[index]),
                    None if place.shares is None else float(np.quantile(place.null[:, index], 0.95)),
                    None if place.untrained is None else float(place.untrained[index]),
                )
            )
    return Table(
        "Variance at each frequency of the sum",
        ("place", "frequency k", "share", "relabelled digits, 95 %", "untrained weights"),
        tuple(rows),
        "Shares of the whole variance over all single steps. 95 % points of each frequency by itself: of many, one in "
        "twenty lies above by chance. Each neuron counts as much as what it writes is long.",
    )


def _cells_figure(residues: Residues, ran: Ran) -> Figure:
    """The right answer's logit by sum and difference of the first two operands, averaged over what else varies."""
    n, correct = residues.modulus, ran.correct(residues)
    a, b = residues.operands[:, 0], residues.operands[:, 1]
    cell = (a + b) % n * n + (a - b) % n
    count = np.bincount(cell, minlength=n * n)
    mean = np.bincount(cell, correct, minlength=n * n) / np.maximum(count, 1)
    z: list[list[float | None]] = [
        [float(mean[s * n + d]) if count[s * n + d] else None for d in range(n)] for s in range(n)
    ]
    labels = [str(value) for value in range(n)]
    return Figure(
        "heatmap",
        "The right answer's logit by sum and difference of the first two operands",
        "Columns that differ, each alike from top to bottom, are a pizza's: the logit is high where operands lie near "
        "each other (or at some other distance). Rows that differ are a clock's or a table's."
        + (" An even modulus leaves half of the cells empty." if n % 2 == 0 else "")
        + (" Averaged over the other operands." if residues.operands.shape[1] > 2 else ""),
        "Columns that differ as much after the digits are relabelled (the control of distance irrelevance).",
        {
            "x": labels, "y": labels, "z": z, "zmid": None,
            "x_title": "difference", "y_title": "sum", "z_title": "logit",
        },
    )  # fmt: skip


def _shown(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.2f}"
