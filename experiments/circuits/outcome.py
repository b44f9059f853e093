"""The tables of this study's README, made from its records and from the overlap of its models' circuits.

    python experiments/circuits/outcome.py [--check]
    python experiments/circuits/outcome.py --overlap [STORE]

Rewrites what stands between the two marks in README.md from records.jsonl and, where it is there, overlap.json; --check
changes nothing and exits with 1 where the two differ. --overlap first measures how much the circuits of the models that
learned have in common, from their kept weights beside the store (records.sqlite), and writes overlap.json: a few
seconds a model. What is committed is enough to make the page again without weights.
"""

from __future__ import annotations

import json
import math
import statistics
import sys
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

from kc_interp.comparison import permutation_p, t_interval, welch_interval
from kc_interp.files import write_atomically
from kc_interp.records import Record, Store, read_lines
from kc_interp.report import markdown

HERE = Path(__file__).parent
STUDY, ALONE, JOINT, SHUFFLED = "circuits", "SUM", "MAX+MED+SUM", "shuffled SUM"

SHOWN: Mapping[tuple[str, str], str] = {
    ("circuit", "circuit.edges"): "edges that keep 90 %",
    ("circuit", "circuit.heads"): "heads in the circuit",
    ("circuit", "circuit.faithfulness"): "faithfulness, held-out pairs",
    ("circuit", "part.attn0"): "effect of attention, block 0",
    ("circuit", "part.mlp0"): "effect of the MLP, block 0",
    ("circuit", "part.attn1"): "effect of attention, block 1",
    ("circuit", "part.mlp1"): "effect of the MLP, block 1",
    ("operand-structure", "attn0.order1"): "attention 0: each operand on its own",
    ("operand-structure", "mlp0.exchange"): "MLP 0: the same when operands change places",
    ("operand-structure", "mlp0.number"): "MLP 0: depends on the sum alone",
    ("operand-structure", "mlp1.number"): "MLP 1: depends on the sum alone",
    ("verdict", "verdict.ordered"): "how much number orders the neurons (verdict)",
    ("verdict", "verdict.held.triples"): "right on triples never seen in any order",
}
"""By probe and key, in words."""

VERDICTS = {
    "verdict.table": "flat table",
    "verdict.pairs": "table of pairs composed",
    "verdict.number": "structured by number",
    "verdict.neither": "neither",
}

Values = Mapping[tuple[str, str], Mapping[str, Sequence[tuple[float, float | None]]]]
"""Probe and key -> arm -> (value, control) of every seed that learned."""


def values_of(records: Sequence[Record]) -> Values:
    """Every shown number of every run that learned; what a probe could not measure is left out."""
    found: dict[tuple[str, str], dict[str, list[tuple[float, float | None]]]] = {name: {} for name in SHOWN}
    for record in records:
        if record.learned:
            for finding in record.findings:
                for number in finding["numbers"]:
                    key = finding["probe"], number["key"]
                    if key in found and number["value"] is not None:
                        found[key].setdefault(record.arm, []).append((number["value"], number["control"]))
    return found


def tables(records: Sequence[Record], overlap: Mapping[str, Any] | None) -> Iterator[str]:
    """Who learned, every number by arm, differences, predictions, overlap."""
    arms = list(dict.fromkeys(record.arm for record in records))
    values = values_of(records)
    shown = {key: title for key, title in SHOWN.items() if values[key]}
    yield markdown.table(
        ("arm", "runs", "learned SUM"),
        [
            (arm, str(len(own)), str(sum(bool(record.learned) for record in own)))
            for arm in arms
            for own in [[record for record in records if record.arm == arm]]
        ],
    )
    yield "Over the seeds that learned: mean, its 95 % interval, and the median.\n\n"
    yield markdown.table(
        ("", *arms),
        [(title, *(_mean(values[key].get(arm, ())) for arm in arms)) for key, title in shown.items()],
    )
    yield "Differences: the second arm's mean minus the first's, Welch's 95 % interval, exact permutation p.\n\n"
    pairs = list(combinations(arms, 2))
    yield markdown.table(
        ("", *(f"{one}, {other}" for one, other in pairs)),
        [
            (title, *(_difference(values[key].get(one, ()), values[key].get(other, ())) for one, other in pairs))
            for key, title in shown.items()
        ],
    )
    yield markdown.table(("prediction", "says", "found", "so"), list(predictions(values)))
    verdicts = _verdicts(records)
    if verdicts:
        rows = [(arm, *(str(own[key]) for key in VERDICTS)) for arm, own in verdicts.items()]
        yield markdown.table(("seeds by verdict", *VERDICTS.values()), rows)
    if overlap is not None:
        yield from _overlap_tables(overlap)


def _verdicts(records: Sequence[Record]) -> dict[str, dict[str, int]]:
    """Of the seeds that learned, how many got which verdict (a number of 1 under its key): arm -> key -> seeds."""
    found: dict[str, dict[str, int]] = {}
    for record in records:
        for finding in record.findings if record.learned else ():
            for number in finding["numbers"] if finding["probe"] == "verdict" else ():
                if number["key"] in VERDICTS and number["value"] is not None:
                    found.setdefault(record.arm, dict.fromkeys(VERDICTS, 0))[number["key"]] += int(number["value"])
    return found


def _plain(some: Sequence[tuple[float, float | None]]) -> list[float]:
    return [value for value, _ in some]


def _beyond(some: Sequence[tuple[float, float | None]]) -> list[float]:
    """Each seed's value minus its own control."""
    return [value - control for value, control in some if control is not None]


def _number(value: float, sign: str = "") -> str:
    return f"{value:{sign}.3g}".replace("-", "\u2212")


def _interval(bounds: tuple[float, float] | None, sign: str = "") -> str:
    return "" if bounds is None else f" [{_number(bounds[0], sign)}, {_number(bounds[1], sign)}]"


def _mean(some: Sequence[tuple[float, float | None]]) -> str:
    values = _plain(some)
    if not values:
        return "none learned"
    mean = math.fsum(values) / len(values)
    return f"{_number(mean)}{_interval(t_interval(values))}, {_number(statistics.median(values))}"


def _difference(a: Sequence[tuple[float, float | None]], b: Sequence[tuple[float, float | None]]) -> str:
    one, other = _plain(a), _plain(b)
    if not (one and other):
        return "not compared"
    p, _ = permutation_p(one, other)
    said = (
        f"{_number(statistics.fmean(other) - statistics.fmean(one), '+')}{_interval(welch_interval(one, other), '+')}"
    )
    return said + ("" if p is None else f", p = {p:.2g}")


def predictions(values: Values) -> Iterator[tuple[str, str, str, str]]:
    """Each prediction of the README: its number, what it says, what was found, and whether that bears it out."""
    arms = list(dict.fromkeys(arm for own in values.values() for arm in own))
    for key, least, says in (
        (("circuit", "part.attn0"), 0.9, "effect of attention 0 above 0.9 in every arm"),
        (("operand-structure", "attn0.order1"), 0.95, "above 95 % of it from each operand on its own"),
        (("operand-structure", "mlp0.exchange"), 0.9, "MLP 0 above 90 % the same when operands change places"),
    ):
        means = {arm: statistics.fmean(_plain(values[key][arm])) for arm in arms if values[key].get(arm)}
        found = "; ".join(f"{arm} {_number(mean)}" for arm, mean in means.items())
        yield "1", says, found, _so(all(mean > least for mean in means.values()) if means else None)
    yield ("2", "joint models need fewer edges", *_sign(values["circuit", "circuit.edges"], -1))
    for name in ("mlp0", "mlp1"):
        says = f"number orders more of {name} in joint models"
        yield ("3", says, *_sign(values["operand-structure", f"{name}.number"], 1))
    of_sum = values["operand-structure", "mlp0.number"]
    beyond = _beyond(of_sum.get(SHUFFLED, ()))
    yield "4", "shuffled SUM: no more of mlp0 than its control", _above(beyond), _so(_not_above(beyond))
    alone = _beyond(values["operand-structure", "mlp1.number"].get(ALONE, ()))
    interval = t_interval(alone)
    yield (
        "5",
        "SUM alone: more of mlp1 than its control",
        _above(alone),
        _so(None if interval is None else interval[0] > 0),
    )
    first = _beyond(of_sum.get(ALONE, ()))
    count = sum(value > 0 for value in first)
    so = _so(None if not first else count < len(first) / 2)
    yield "5", "SUM alone: in most seeds no more of mlp0", f"more in {count} of {len(first)} seeds", so


def _sign(of: Mapping[str, Sequence[tuple[float, float | None]]], sign: int) -> tuple[str, str]:
    """The difference of joint and SUM alone, and whether its interval lies on the predicted side of 0."""
    interval = welch_interval(_plain(of.get(ALONE, ())), _plain(of.get(JOINT, ())))
    found = _difference(of.get(ALONE, ()), of.get(JOINT, ()))
    if interval is None:
        return found, _so(None)
    low, high = sorted(sign * bound for bound in interval)
    if low <= 0 <= high:
        return found, "not shown: the interval includes 0"
    return found, _so(low > 0)


def _above(beyond: Sequence[float]) -> str:
    if not beyond:
        return "none learned"
    return f"beyond its control by {_number(statistics.fmean(beyond), '+')}{_interval(t_interval(beyond), '+')}"


def _not_above(beyond: Sequence[float]) -> bool | None:
    interval = t_interval(beyond)
    return None if interval is None else interval[0] <= 0


def _so(holds: bool | None) -> str:
    return "undecided: too few seeds" if holds is None else "as predicted" if holds else "**not as predicted**"


def _overlap_tables(overlap: Mapping[str, Any]) -> Iterator[str]:
    """Overlap within and across arms, beside circuits whose heads were shuffled and matched alike."""
    import numpy as np

    from kc_interp.overlap.sides import contrast

    models, arms = overlap["models"], list(dict.fromkeys(model["arm"] for model in overlap["models"]))
    place = {model["key"]: index for index, model in enumerate(models)}
    matrix = np.full((len(models), len(models)), np.nan)
    shuffled = matrix.copy()
    for pair in overlap["pairs"]:
        one, other = place[pair["one"]], place[pair["other"]]
        matrix[one, other] = matrix[other, one] = pair["weighted"]
        shuffled[one, other] = shuffled[other, one] = pair["shuffled"]
    rows = []
    of = {arm: [index for index, model in enumerate(models) if model["arm"] == arm] for arm in arms}
    for arm in arms:
        itself = statistics.fmean(models[index]["itself"] for index in of[arm])
        found = contrast(matrix[np.ix_(of[arm], of[arm])], len(of[arm])).within[0]
        null = contrast(shuffled[np.ix_(of[arm], of[arm])], len(of[arm])).within[0]
        rows.append((f"within {arm}", str(found.pairs), _of(found), _of(null), _number(itself), ""))
    for one, other in combinations(arms, 2):
        chosen = [*of[one], *of[other]]
        found = contrast(matrix[np.ix_(chosen, chosen)], len(of[one]))
        null = contrast(shuffled[np.ix_(chosen, chosen)], len(of[one]))
        said = _of(found.difference, "+") + ("" if found.p is None else f", p = {found.p:.2g}")
        rows.append((f"{one} with {other}", str(found.across.pairs), _of(found.across), _of(null.across), "", said))
    yield (
        "Effects that the edges of two models share (weighted Jaccard index), heads matched by role on one half of the "
        "inputs and compared on the other; jackknife intervals over seeds. *Shuffled*: circuits whose heads were "
        "exchanged within every kind of edge, matched alike. *Itself*: a model on the two halves.\n\n"
    )
    yield markdown.table(("circuits", "pairs", "overlap", "shuffled", "itself", "within minus across"), rows)


def _of(mean: Any, sign: str = "") -> str:
    if mean.value is None:
        return "no pair"
    return _number(mean.value, sign) + ("" if mean.low is None else _interval((mean.low, mean.high), sign))


def measure_overlap(store_path: Path, *, pairs: int = 32, shuffles: int = 49) -> dict[str, Any]:
    """How much the circuits of all models that learned share, from their kept weights."""
    from kc_interp.checkpoint import load
    from kc_interp.errors import ProbeError
    from kc_interp.overlap.measured import Asked, between, measure
    from kc_interp.probe import Subject

    asked = Asked("SUM", pairs, shuffles=shuffles)
    measured, models, refused = [], [], []
    with Store.open(store_path) as store:
        for record in store.records(STUDY, findings=False):
            path = store.weights_path(record)
            if not record.learned or path is None or not path.is_file():
                continue
            sys.stderr.write(f"{record.arm}, seed {record.seed}\n")
            try:
                one = measure(Subject(record.key, load(path), 0, True), asked)
            except ProbeError as error:
                refused.append({"key": record.key, "arm": record.arm, "seed": record.seed, "why": str(error)})
                continue
            measured.append(one)
            models.append({"key": record.key, "arm": record.arm, "seed": record.seed, "itself": one.itself.weighted,
                           "edges": [profile.edges for profile in one.profiles], "right": one.right.share})  # fmt: skip
    compared = []
    for one, other in combinations(measured, 2):
        found = between(one, other, asked)
        by_chance, rewired = found.random["weighted"], found.shuffled["weighted"]
        compared.append({"one": one.name, "other": other.name, **dict(found.overlap), "random": by_chance.mean,
                      "p": by_chance.p, "shuffled": rewired.mean, "p shuffled": rewired.p})  # fmt: skip
    return {"pairs": compared, "models": models, "refused": refused}


def outcome(folder: Path = HERE) -> str:
    """The README as its records would have it."""
    _, records = read_lines((folder / "records.jsonl").read_text(encoding="utf-8"), where="records.jsonl")
    measured = folder / "overlap.json"
    overlap = json.loads(measured.read_text(encoding="utf-8")) if measured.is_file() else None
    return markdown.between(folder / "README.md", "records.jsonl", "\n" + "".join(tables(records, overlap)))


def main(arguments: Sequence[str]) -> int:
    if "--overlap" in arguments:
        store = Path(next((name for name in arguments if not name.startswith("-")), str(HERE / "records.sqlite")))
        write_atomically(HERE / "overlap.json", json.dumps(measure_overlap(store), indent=1) + "\n")
    return markdown.update(HERE / "README.md", outcome(), check="--check" in arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
