"""How often the verdict is wrong, how often it finds what is there, and what behaviour says of it.

    python experiments/verdict/calibrate.py STORE.sqlite …   # judge models, then write README.md
    python experiments/verdict/calibrate.py [--check]        # README.md from models.jsonl alone

Each store is a study's, with its weights beside it; the runs of seen.txt, by which the rule was set, are left out.
Every model is written to models.jsonl as soon as it is judged: a kill loses one, and the same command goes on.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F

from kc_interp.checkpoint import Checkpoint, context_length, load
from kc_interp.circuits.verdict import KINDS, Evidence, Ordered, Rule, judge
from kc_interp.comparison import t_interval
from kc_interp.known_answers import KnownAnswer
from kc_interp.known_answers.constructed import arithmetic_sum, composed_table_sum, flat_table_sum
from kc_interp.model import parameters
from kc_interp.model.forward import forward
from kc_interp.plugins import make_task
from kc_interp.probe import Subject
from kc_interp.records import Record, Store
from kc_interp.report import markdown
from kc_interp.scaling.study import load as load_study
from kc_interp.spec import RunSpec
from kc_interp.statistics import wilson
from kc_interp.steps import all_steps
from kc_interp.tokens import Tokens
from kc_probes.verdict import VerdictProbe

HERE = Path(__file__).parent
MODELS, SEEN = HERE / "models.jsonl", HERE / "seen.txt"
NULLS = 200
NOISES = (0.0, 0.0003, 0.001, 0.003, 0.01, 0.02, 0.05, 0.1)
INITIALISATIONS: tuple[Literal["narrow"], Literal["wide"]] = ("narrow", "wide")
MODULI = (6, 7, 8, 9, 10)
RETRAINED = 10
"""Models of each study and verdict that are retrained."""

DECLARED = KINDS[:3]
FALSE = {
    "untrained": DECLARED,
    "shuffled weights": DECLARED,
    "trained failures": DECLARED,
    "shuffled tables": DECLARED[1:],
}
"""What may not be declared, by group."""

Model = dict[str, Any]
Job = tuple[str, Callable[[], Model]]
"""The name of a model, and how it is judged."""

Found = Sequence[tuple[Record, Path]]


def judged(subject: Subject, **facts: Any) -> Model:
    """One model's verdict, what it would be without asking for the table, its evidence, and held-out steps."""
    found = VerdictProbe().read(subject)
    evidence = found.evidence
    return {
        "verdict": judge(evidence).kind,
        "internals": judge(dataclasses.replace(evidence, right=1.0)).kind,
        "evidence": plain(evidence),
        "held": {name: [int(of.sum()), len(of)] for name, of in found.held.items()},
        **facts,
    }


def plain(evidence: Evidence) -> dict[str, Any]:
    """All of it, rounded."""
    found: dict[str, Any] = dataclasses.asdict(evidence)
    for field in dataclasses.fields(evidence):
        if isinstance(value := getattr(evidence, field.name), Ordered):
            found[field.name]["index"] = value.index
    rounded: dict[str, Any] = json.loads(json.dumps(found), parse_float=lambda text: round(float(text), 5))
    return rounded


def untrained() -> Iterator[Job]:
    """Fresh models of the capacity study's shape."""
    study = load_study(HERE / "failures.toml")
    narrow, wide = (dataclasses.replace(study.base.model, init=init) for init in INITIALISATIONS)
    shapes = [dataclasses.replace(model, d_model=width) for width in (24, 48) for model in (narrow, wide)]

    def made(index: int) -> Model:
        model = shapes[index % len(shapes)]
        checkpoint = fresh(dataclasses.replace(study.base, model=model, seed=index))
        return judged(Subject("untrained", checkpoint, index, learned=False), source=f"{model.init} {model.d_model}")

    yield from ((f"untrained {index}", partial(made, index)) for index in range(NULLS))


def fresh(spec: RunSpec) -> Checkpoint:
    task = make_task(spec.task)
    generator = torch.Generator().manual_seed(spec.seed)
    shape = {"d_vocab": len(Tokens.of(task, spec.data.vocabulary)), "n_ctx": context_length(spec, task)}
    return Checkpoint(spec, parameters.initialise(spec.model, generator, **shape))


def shuffled(found: Found) -> Iterator[Job]:
    """Models that learned, their tensors' entries in other places."""
    learned = [one for one in found if one[0].learned]

    def made(index: int) -> Model:
        record, path = learned[index % len(learned)]
        generator = torch.Generator().manual_seed(index)
        trained = load(path)
        params = {
            name: value.flatten()[torch.randperm(value.numel(), generator=generator)].reshape(value.shape)
            for name, value in trained.params.items()
        }
        checkpoint = dataclasses.replace(trained, params=params)
        return judged(Subject("shuffled", checkpoint, index, learned=False), source=record.arm)

    yield from ((f"shuffled weights {index}", partial(made, index)) for index in range(NULLS))


def trained(found: Found) -> Iterator[Job]:
    """Every run: a shuffled table, a failure by its study's criterion, or a model that knows SUM."""

    def made(record: Record, path: Path) -> Model:
        return judged(
            Subject(record.key[:8], load(path), 0, learned=record.learned),
            source=record.arm,
            key=record.key,
            study=record.study,
            learned=record.learned,
            init=str(record.spec["model"]["init"]),
            d_model=record.d_model,
            depth=record.spec["task"]["settings"]["depth"],
        )

    for record, path in found:
        table = "SUM" in record.spec["task"]["settings"].get("shuffled", ())
        group = "shuffled tables" if table else "knows SUM" if record.learned else "trained failures"
        yield f"{group} {record.key}", partial(made, record, path)


def constructed() -> Iterator[Job]:
    """Known-answer models with noise on every weight: a share of the largest entry of its tensor."""
    truths = dict(zip(DECLARED, (flat_table_sum, composed_table_sum, arithmetic_sum), strict=True))

    def made(truth: str, known: KnownAnswer, noise: float, seed: int) -> Model:
        subject = noisy(known, noise, seed).subject(seed)
        return judged(subject, source=known.name, truth=truth, modulus=known.task.modulus, noise=noise)

    for truth, make in truths.items():
        for modulus in MODULI:
            known = make(modulus)
            for noise in NOISES:
                for seed in range(4 if noise else 1):
                    name = f"constructed {known.name} modulo {modulus}, noise {noise}, {seed}"
                    yield name, partial(made, truth, known, noise, seed)


def noisy(known: KnownAnswer, noise: float, seed: int) -> KnownAnswer:
    generator = torch.Generator().manual_seed(seed)
    params = {
        name: value + noise * float(value.abs().max()) * torch.randn(value.shape, generator=generator)
        for name, value in known.params.items()
    }
    return dataclasses.replace(known, params=params)


def retrained(found: Found, models: Mapping[str, Model]) -> Iterator[Job]:
    """Models with a verdict, given other answers for half of the steps of one sum: which other steps follow?"""
    verdicts = {model["key"]: model["verdict"] for model in models.values() if "key" in model}
    taken: Counter[tuple[str, str]] = Counter()

    def made(record: Record, path: Path, verdict: str) -> Model:
        return {"key": record.key, "verdict": verdict, "source": record.arm, **follow(load(path))}

    for record, path in found:
        verdict = verdicts[record.key]
        if verdict == "neither" or taken[record.study, verdict] >= RETRAINED:
            continue
        taken[record.study, verdict] += 1
        yield f"retrained {record.key}", partial(made, record, path, verdict)


def follow(model: Checkpoint, *, shift: int = 3, most: int = 300) -> Model:
    """Train half of the orbits of each of three sums to answers that are `shift` larger, one sum at a time.

    Of all other steps that were answered rightly before, the share whose answer is `shift` larger afterwards: `same` of
    the same sum; `answer` of other sums, the answer one of those that were changed; `other` of other sums and answers
    (None where there are none).
    """
    subject = Subject("retrained", model)
    steps = all_steps(subject, "SUM")
    ids = subject.ids(steps.chains)[:, :, : steps.query + 1]
    digits = torch.from_numpy(subject.tokens.encode(steps.digits))
    answers = torch.searchsorted(digits, torch.from_numpy(subject.tokens.encode(steps.chains.answer_symbols())))
    before = forward(model.stacked, model.spec.model, ids)[0, :, -1][:, digits].argmax(1)
    known, sums = before == answers, torch.from_numpy(steps.operands.sum(axis=1))
    orbit = torch.from_numpy(np.unique(np.sort(steps.operands, axis=1), axis=0, return_inverse=True)[1].reshape(-1))
    shares: dict[str, list[float]] = {"same": [], "answer": [], "other": []}
    for total in (9, 13, 17):
        chosen = torch.isin(orbit, orbit[sums == total].unique()[::2])
        params = {name: value.clone().requires_grad_() for name, value in model.stacked.items()}
        optimiser = torch.optim.Adam(params.values(), lr=3e-4)
        wanted = digits[(answers[chosen] + shift) % len(digits)]
        for _ in range(most):
            logits = forward(params, model.spec.model, ids[:, chosen])[0, :, -1]
            if (logits.argmax(1) == wanted).all():
                break
            optimiser.zero_grad()
            F.cross_entropy(logits, wanted).backward()
            optimiser.step()
        with torch.no_grad():
            after = forward(params, model.spec.model, ids)[0, :, -1][:, digits].argmax(1)
        moved = (after == (before + shift) % len(digits)).float()
        rest, changed = known & ~chosen, torch.isin(answers, answers[chosen])
        for name, of in (
            ("same", sums == total),
            ("answer", (sums != total) & changed),
            ("other", (sums != total) & ~changed),
        ):
            if (rest & of).any():
                shares[name].append(float(moved[rest & of].mean()))
    return {name: round(float(np.mean(own)), 4) if own else None for name, own in shares.items()}


def runs(stores: Sequence[Path]) -> list[tuple[Record, Path]]:
    """All stored runs with their weights, ordered by key, but those that tuned learning rates and those of seen.txt."""
    seen = set(SEEN.read_text(encoding="utf-8").split())
    found = []
    for path in stores:
        with Store.open(path) as store:
            for name in store.studies():
                for record in store.records(name, findings=False):
                    weights = store.weights_path(record)
                    tuning = record.arm.startswith("tuning: ")
                    if not tuning and record.key not in seen and weights is not None and weights.is_file():
                        found.append((record, weights))
    if not found:
        raise SystemExit("the stores hold no run with its weights; run the studies first (kc-interp sweep)")
    return sorted(found, key=lambda one: one[0].key)


def work(jobs: Iterable[Job], done: dict[str, Model]) -> None:
    """Do what is missing, and write down each model as it comes."""
    for name, make in jobs:
        if name not in done:
            done[name] = make()
            with MODELS.open("a", encoding="utf-8") as lines:
                lines.write(json.dumps({"name": name, **done[name]}, sort_keys=True) + "\n")
            print(f"{len(done)}: {name}: {done[name]['verdict']}", file=sys.stderr)


def page(models: Mapping[str, Model]) -> Iterator[str]:
    """The outcome: false verdicts, power, and what behaviour says."""
    yield from _errors(models)
    yield from _power(models)
    yield from _foretold(models)
    yield from _arms(models)
    yield from _follows(models)


def _of(models: Mapping[str, Model], group: str) -> list[Model]:
    return [model for name, model in models.items() if name.startswith(group + " ")]


def _knows(model: Model) -> bool:
    return bool(model["evidence"]["right"] >= Rule.knows)


def _contradicted(model: Model) -> bool:
    """Whether a model's answers to held-out triples go against its verdict; where none were held out, they do not."""
    known, flat = _held(model, "triples"), DECLARED[0]
    return known < 0.5 if model["verdict"] in DECLARED[1:] else known >= 0.5 and model["verdict"] == flat


def _errors(models: Mapping[str, Model]) -> Iterator[str]:
    from scipy.stats import binom

    rows = []
    unknowing = [model for model in _of(models, "trained failures") if not _knows(model)]
    groups = [(group, _of(models, group), kinds) for group, kinds in FALSE.items()]
    groups.append(("of the trained failures, those that do not know the single steps", unknowing, DECLARED))
    for group, of, kinds in groups:
        for kind in kinds:
            limit = int(binom.ppf(0.99, len(of), 0.05))
            counts = [sum(model[key] == kind for model in of) for key in ("verdict", "internals")]
            rows.append((group, kind, str(len(of)), str(limit), *(share(count, len(of)) for count in counts)))
    yield (
        "False verdicts, with 95 % intervals (Wilson). *Allowed* is the 99 % limit of a true rate of 5 %. The last "
        "column leaves out that a model must know the table.\n\n"
    )
    yield markdown.table(("group", "verdict", "models", "allowed", "declared", "by internals alone"), rows)
    failed = _of(models, "trained failures")
    knowing = [model for model in failed if _knows(model)]
    said = Counter(model["verdict"] for model in knowing)
    yield (
        f"Of {len(failed)} trained failures {len(knowing)} answer at least {Rule.knows:.0%} of the single steps that "
        "they may have been trained on, and fail only by their study's criterion, of whole chains: "
        f"{_counted(said)}. They are no errors by that alone. Held against triples that nobody showed them, of which "
        "whatever composes answers at least half and a flat table does not, "
        f"{share(sum(map(_contradicted, failed)), len(failed))} have a verdict that their behaviour contradicts, where "
        f"{int(binom.ppf(0.99, len(failed), 0.05))} are allowed (a count made after the first was seen).\n\n"
    )
    tables = _of(models, "shuffled tables")
    known = [model for model in tables if _knows(model)]
    neurons = sum(model["evidence"]["number"]["p"] <= Rule.p for model in known)
    both = sum(
        model["evidence"]["number"]["p"] <= Rule.p and model["evidence"]["number"]["index"] >= Rule.ordered
        for model in known
    )
    yield (
        f"Of {len(tables)} shuffled tables {len(known)} are known. Their answers cannot follow number; their neurons "
        f"alone are ordered at p <= {Rule.p} in {share(neurons, len(known))}, and by an index of at least "
        f"{Rule.ordered} as well in {share(both, len(known))}.\n\n"
    )


def _power(models: Mapping[str, Model]) -> Iterator[str]:
    rows: list[tuple[str, ...]] = []
    for truth in DECLARED:
        for noise in NOISES:
            of = [model for model in _of(models, "constructed") if model["truth"] == truth and model["noise"] == noise]
            known = [model for model in of if _knows(model)]
            hits = sum(model["verdict"] == truth for model in known)
            others = Counter(model["verdict"] for model in known if model["verdict"] != truth)
            rows.append((truth, f"{noise:.2%}", str(len(of)), share(hits, len(known)), _counted(others)))
    known = [model for model in _of(models, "shuffled tables") if _knows(model)]
    hits = sum(model["verdict"] == "flat table" for model in known)
    others = Counter(model["verdict"] for model in known if model["verdict"] != "flat table")
    rows.append(
        ("flat table: shuffled tables, trained", "-", str(len(known)), share(hits, len(known)), _counted(others))
    )
    yield "Power: true verdicts, of the models that know the table.\n\n"
    yield markdown.table(("truth", "noise", "models", "declared", "instead"), rows)


def _foretold(models: Mapping[str, Model]) -> Iterator[str]:
    rows = []
    for group, says in (
        ("knows SUM", "SUM"),
        ("trained failures", "SUM, fails at chains"),
        ("shuffled tables", "shuffled"),
    ):
        for kind in KINDS:
            of = [model for model in _of(models, group) if model["verdict"] == kind and _knows(model)]
            if of:
                known = [_median(of, name) for name in ("triples", "pairs")]
                above = [
                    share(sum(_held(model, name) >= 0.5 for model in of), len(of)) for name in ("triples", "pairs")
                ]
                rows.append((says, kind, str(len(of)), known[0], above[0], known[1], above[1]))
    yield (
        "What the verdict did not see: right answers on steps held out of training, in the median model, and how many "
        "models know at least half. The answers of a shuffled table cannot be known unseen.\n\n"
    )
    columns = ("table", "verdict", "models", "triples", "of models", "triples with a held-out pair", "of models")
    yield markdown.table(columns, rows)


def _arms(models: Mapping[str, Model]) -> Iterator[str]:
    rows = []
    knows = _of(models, "knows SUM")
    for source, init, depth in sorted({(model["source"], model["init"], model["depth"]) for model in knows}):
        of = [model for model in knows if (model["source"], model["init"], model["depth"]) == (source, init, depth)]
        index = np.quantile([model["evidence"]["number"]["index"] for model in of], (0.0, 0.5, 1.0))
        said = Counter(model["verdict"] for model in of)
        pairs = sum(model["evidence"]["pair"] >= 0.5 for model in of)
        shape = "single steps" if depth == 1 else "chains"
        least, median, largest = (f"{value:.2f}" for value in index)
        rows.append((source, init, shape, str(len(of)), _counted(said), f"{median} ({least} to {largest})", str(pairs)))
    yield "Models that know SUM, by what they were trained on.\n\n"
    columns = (
        "arm",
        "initialisation",
        "trained on",
        "models",
        "verdicts",
        "number index: median, range",
        "a pair first",
    )
    yield markdown.table(columns, rows)
    yield "*A pair first*: one pair makes at least half of the interactions where operands first meet.\n\n"


def _follows(models: Mapping[str, Model]) -> Iterator[str]:
    again = _of(models, "retrained")
    rows = []
    for kind in DECLARED:
        of = [model for model in again if model["verdict"] == kind]
        if not of:
            continue
        same, answer, other = (
            [model[name] for model in of if model[name] is not None] for name in ("same", "answer", "other")
        )
        gaps = [one - two for one, two in zip(same, answer, strict=True)]
        bounds = t_interval(gaps)
        interval = "" if bounds is None else f" [{bounds[0]:+.2f}, {bounds[1]:+.2f}]"
        means = [f"{np.mean(own):.0%}" if own else "none" for own in (same, answer, other)]
        rows.append((kind, str(len(of)), *means, f"{np.mean(gaps):+.2f}{interval}"))
    if rows:
        yield "Retrained on half of the steps of one sum with other answers: the share of other steps that follow.\n\n"
        columns = ("verdict", "models", "same sum", "other sums, same answer", "other sums and answers", "first two")
        yield markdown.table(columns, rows)


def _held(model: Model, name: str) -> float:
    right, count = model["held"].get(name, (0, 0))
    return right / count if count else float("nan")


def _median(of: Sequence[Model], name: str) -> str:
    known = [_held(model, name) for model in of if model["held"].get(name, (0, 0))[1]]
    return f"{np.median(known):.0%}" if known else "none"


def _counted(said: Counter[str]) -> str:
    return ", ".join(f"{said[kind]} {kind}" for kind in KINDS if said[kind]) or "none"


def share(count: int, n: int) -> str:
    if not n:
        return "-"
    low, high = wilson(count, n)
    return f"{count} of {n} ({low:.0%} to {high:.0%})"


def judged_before() -> dict[str, Model]:
    """The models of models.jsonl, by name."""
    lines = MODELS.read_text(encoding="utf-8").splitlines() if MODELS.is_file() else []
    return {model.pop("name"): model for model in map(json.loads, lines)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stores", nargs="*", type=Path)
    parser.add_argument("--check", action="store_true")
    asked = parser.parse_args()
    if asked.stores:
        torch.set_num_threads(1)
        found = runs(asked.stores)
        done = judged_before()
        for jobs in (untrained(), constructed(), shuffled(found), trained(found)):
            work(jobs, done)
        work(retrained(found, done), done)
    page_path = HERE / "README.md"
    made = markdown.between(page_path, "models.jsonl", "".join(page(judged_before())))
    return markdown.update(page_path, made, check=asked.check)


if __name__ == "__main__":
    sys.exit(main())
