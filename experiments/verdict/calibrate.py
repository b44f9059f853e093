"""How often the verdict is wrong, how often it finds what is there, and what behaviour says of it.

    python experiments/verdict/calibrate.py STORE.sqlite … [--unseen FILE]   # judge models; writes models.jsonl
    python experiments/verdict/calibrate.py --page [--check]                 # README.md from models.jsonl

Each store is a study's, with its weights beside it; `--unseen` names runs (a key a line) that are not to be read: those
by which the rule was set. What is judged does not depend on the order of stores.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F

from kc_interp.checkpoint import Checkpoint, context_length, load
from kc_interp.circuits.verdict import Rule, judge
from kc_interp.files import write_atomically
from kc_interp.known_answers import KnownAnswer
from kc_interp.known_answers.constructed import arithmetic_sum, composed_table_sum, flat_table_sum
from kc_interp.model import parameters
from kc_interp.model.forward import forward
from kc_interp.plugins import make_task
from kc_interp.probe import Subject
from kc_interp.records import Record, Store
from kc_interp.spec import RunSpec
from kc_interp.statistics import wilson
from kc_interp.steps import all_steps
from kc_interp.tokens import Tokens
from kc_probes.verdict import VerdictProbe

HERE = Path(__file__).parent
MODELS = HERE / "models.jsonl"
BEGIN, END = "<!-- from models.jsonl -->\n", "<!-- end -->\n"
NULLS = 200
NOISES = (0.0, 0.01, 0.02, 0.05, 0.1)
INITIALISATIONS: tuple[Literal["narrow"], Literal["wide"]] = ("narrow", "wide")
MODULI = (6, 7, 8, 9, 10)
RETRAINED = 10
"""Models of each group that are retrained."""


def judged(subject: Subject, group: str, source: str, **facts: Any) -> dict[str, Any]:
    """One model's verdict, what it would be without asking for the table, and what behaviour says."""
    probe = VerdictProbe()
    evidence, right, held = probe.read(subject)
    shares = {name: (int(of.sum()), len(of)) for name, of in held.items()}
    return {
        "group": group,
        "source": source,
        "verdict": judge(evidence).kind,
        "internals": judge(dataclasses.replace(evidence, right=1.0), Rule()).kind,
        "right": round(float(right.mean()), 4),
        "index": round(evidence.number.index, 4),
        "p": round(evidence.number.p, 4),
        "pair": round(evidence.pair, 4),
        "held": shares,
        **facts,
    }


def untrained() -> Iterator[dict[str, Any]]:
    """Fresh models of the capacity study's shape."""
    from kc_interp.scaling.study import load as load_study

    study = load_study(HERE / "failures.toml")
    narrow, wide = (dataclasses.replace(study.base.model, init=init) for init in INITIALISATIONS)
    models = [dataclasses.replace(model, d_model=width) for width in (24, 48) for model in (narrow, wide)]
    for index in range(NULLS):
        model = models[index % len(models)]
        spec = dataclasses.replace(study.base, model=model, seed=index)
        yield judged(
            Subject(f"untrained {index}", fresh(spec), index, learned=False),
            "untrained",
            f"{model.init} {model.d_model}",
        )


def fresh(spec: RunSpec) -> Checkpoint:
    task = make_task(spec.task)
    generator = torch.Generator().manual_seed(spec.seed)
    shape = {"d_vocab": len(Tokens.of(task, spec.data.vocabulary)), "n_ctx": context_length(spec, task)}
    return Checkpoint(spec, parameters.initialise(spec.model, generator, **shape))


def shuffled(found: Sequence[tuple[Record, Path]]) -> Iterator[dict[str, Any]]:
    """Trained models whose tensors keep their entries, in other places."""
    generator = torch.Generator().manual_seed(0)
    for index in range(NULLS):
        record, path = found[index % len(found)]
        trained = load(path)
        params = {
            name: value.flatten()[torch.randperm(value.numel(), generator=generator)].reshape(value.shape)
            for name, value in trained.params.items()
        }
        checkpoint = dataclasses.replace(trained, params=params)
        subject = Subject(f"shuffled {index}", checkpoint, index, learned=False)
        yield judged(subject, "shuffled weights", record.arm)


def trained(found: Sequence[tuple[Record, Path]]) -> Iterator[dict[str, Any]]:
    """Every run: a shuffled table, a failure by its study's criterion, or a model that knows SUM."""
    for record, path in found:
        table = "SUM" in record.spec["task"]["settings"].get("shuffled", ())
        group = "shuffled tables" if table else "knows SUM" if record.learned else "trained failures"
        subject = Subject(record.key[:8], load(path), 0, learned=record.learned)
        init, depth = str(record.spec["model"]["init"]), record.spec["task"]["settings"]["depth"]
        facts = {"key": record.key, "init": init, "d_model": record.d_model, "depth": depth}
        yield judged(subject, group, record.arm, study=record.study, learned=record.learned, **facts)


def constructed() -> Iterator[dict[str, Any]]:
    """Known-answer models with noise on every weight: a share of the largest entry of its tensor."""
    truths = {
        "structured by number": arithmetic_sum,
        "table of pairs composed": composed_table_sum,
        "flat table": flat_table_sum,
    }
    for truth, make in truths.items():
        for modulus in MODULI:
            known = make(modulus)
            for noise in NOISES:
                for seed in range(1 if noise == 0 else 4):
                    subject = noisy(known, noise, seed).subject(seed)
                    yield judged(subject, "constructed", known.name, truth=truth, modulus=modulus, noise=noise)


def noisy(known: KnownAnswer, noise: float, seed: int) -> KnownAnswer:
    generator = torch.Generator().manual_seed(seed)
    params = {
        name: value + noise * float(value.abs().max()) * torch.randn(value.shape, generator=generator)
        for name, value in known.params.items()
    }
    return dataclasses.replace(known, params=params)


def retrained(found: Sequence[tuple[Record, Path]], models: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Learned models given other answers for half of the steps of one sum: which other steps follow?"""
    verdicts = {model["key"]: model["verdict"] for model in models if "key" in model}
    taken: dict[tuple[str, str], int] = {}
    for record, path in found:
        verdict = verdicts[record.key]
        group = (record.study, verdict)
        if verdict == "neither" or taken.get(group, 0) >= RETRAINED:
            continue
        taken[group] = taken.get(group, 0) + 1
        yield {"group": "retrained", "key": record.key, "verdict": verdict, "source": record.arm} | follow(load(path))


def follow(model: Checkpoint, *, shift: int = 3, most: int = 300) -> dict[str, Any]:
    """Train half of the orbits of each of three sums to answers that are `shift` larger, one sum at a time.

    `same` is the share of the other half's steps whose answer is `shift` larger afterwards, `other` that of all steps
    of other sums; only steps that were answered rightly before count.
    """
    subject = Subject("retrained", model)
    steps = all_steps(subject, "SUM")
    ids = subject.ids(steps.chains)[:, :, : steps.query + 1]
    digits = torch.from_numpy(
        subject.tokens.encode(np.asarray([code for code, kind in enumerate(model.task.classes) if kind == "digit"]))
    )
    count = len(digits)
    answers = torch.searchsorted(digits, torch.from_numpy(subject.tokens.encode(steps.chains.answer_symbols())))
    before = forward(model.stacked, model.spec.model, ids)[0, :, -1][:, digits].argmax(1)
    known, sums = before == answers, torch.from_numpy(steps.operands.sum(axis=1))
    orbit = torch.from_numpy(np.unique(np.sort(steps.operands, axis=1), axis=0, return_inverse=True)[1].reshape(-1))
    shares = []
    for total in (9, 13, 17):
        own = orbit[sums == total].unique()
        chosen = torch.isin(orbit, own[::2])
        params = {name: value.clone().requires_grad_() for name, value in model.stacked.items()}
        optimiser = torch.optim.Adam(params.values(), lr=3e-4)
        wanted = digits[(answers[chosen] + shift) % count]
        for _ in range(most):
            logits = forward(params, model.spec.model, ids[:, chosen])[0, :, -1]
            if (logits.argmax(1) == wanted).all():
                break
            optimiser.zero_grad()
            F.cross_entropy(logits, wanted).backward()
            optimiser.step()
        with torch.no_grad():
            after = forward(params, model.spec.model, ids)[0, :, -1][:, digits].argmax(1)
        moved = after == (before + shift) % count
        rest = known & ~chosen
        shares.append(
            [float(moved[rest & (sums == total)].float().mean()), float(moved[rest & (sums != total)].float().mean())]
        )
    same, other = np.mean(shares, axis=0)
    return {"same": round(float(same), 4), "other": round(float(other), 4)}


def runs(stores: Sequence[Path], unseen: Path | None) -> list[tuple[Record, Path]]:
    """All stored runs with their weights, ordered by key; those that tuned a study's learning rates are no runs."""
    left_out = set() if unseen is None else set(unseen.read_text(encoding="utf-8").split())
    found = []
    for path in stores:
        with Store.open(path) as store:
            for name in store.studies():
                for record in store.records(name):
                    weights = store.weights_path(record)
                    if record.learned is not None and record.key not in left_out and weights and weights.is_file():
                        found.append((record, weights))
    return sorted(found, key=lambda one: one[0].key)


def page(models: Sequence[dict[str, Any]]) -> Iterator[str]:
    """The outcome: false verdicts, power, and what behaviour says."""
    by = {
        group: [one for one in models if one["group"] == group] for group in dict.fromkeys(m["group"] for m in models)
    }
    false = {
        "untrained": ("flat table", "table of pairs composed", "structured by number"),
        "shuffled weights": ("flat table", "table of pairs composed", "structured by number"),
        "trained failures": ("flat table", "table of pairs composed", "structured by number"),
        "shuffled tables": ("table of pairs composed", "structured by number"),
    }
    rows = []
    for group, kinds in false.items():
        of = by.get(group, [])
        for kind in kinds:
            counts = [sum(one[key] == kind for one in of) for key in ("verdict", "internals")]
            rows.append((group, kind, str(len(of)), *(share(count, len(of)) for count in counts)))
    yield "False verdicts, with 95 % intervals (Wilson); at most 9 % are allowed.\n\n"
    yield markdown(("group", "verdict", "models", "declared", "without asking for the table"), rows)
    failed = by.get("trained failures", [])
    knowing = [one for one in failed if one["right"] >= Rule.knows]
    yield (
        f"Of {len(failed)} trained failures {len(knowing)} know at least {Rule.knows:.0%} of the single steps and fail "
        f"at chains; {sum(one['verdict'] != 'neither' for one in knowing)} of these have a verdict, and no other.\n\n"
    )
    yield "Power: verdicts that are true.\n\n"
    power = []
    for truth in dict.fromkeys(one["truth"] for one in by.get("constructed", [])):
        for noise in NOISES:
            of = [one for one in by["constructed"] if one["truth"] == truth and one["noise"] == noise]
            of = [one for one in of if one["right"] >= Rule.knows]
            hits = sum(one["verdict"] == truth for one in of)
            power.append((f"constructed, {truth}", f"{noise:.0%}", str(len(of)), share(hits, len(of))))
    learned = [one for one in by.get("shuffled tables", []) if one["right"] >= Rule.knows]
    hits = sum(one["verdict"] == "flat table" for one in learned)
    power.append(("shuffled tables that are known, flat table", "-", str(len(learned)), share(hits, len(learned))))
    yield markdown(("models", "noise", "that know the table", "declared"), power)
    yield "What the verdict did not see: right answers on steps held out of training.\n\n"
    rows = []
    everyone = [one for one in models if one["group"] in ("knows SUM", "trained failures", "shuffled tables")]
    for kind, told in {"flat table": (False, False), "structured by number": (True, True)}.items():
        of = [one for one in everyone if one["verdict"] == kind]
        for name, known in zip(("triples", "pairs"), told, strict=True):
            held = [one["held"][name][0] / one["held"][name][1] for one in of if name in one["held"]]
            if held:
                agrees = sum((value >= 0.5) == known for value in held)
                quartiles = " to ".join(f"{value:.0%}" for value in np.quantile(held, (0.25, 0.75)))
                rows.append((kind, name, f"{np.median(held):.0%} ({quartiles})", share(agrees, len(held))))
    yield markdown(("verdict", "held out", "known: median over models (quartiles)", "as foretold"), rows)
    yield "Models that know SUM (by their study's criterion), by what they were trained on.\n\n"
    rows = []
    knows = by.get("knows SUM", [])
    for arm in sorted({(one["source"], one["init"], one["depth"]) for one in knows}):
        of = [one for one in knows if (one["source"], one["init"], one["depth"]) == arm]
        verdicts = Counter(one["verdict"] for one in of)
        index = " to ".join(f"{value:.2f}" for value in np.quantile([one["index"] for one in of], (0.0, 0.5, 1.0)))
        says = ", ".join(f"{verdicts[kind]} {kind}" for kind in sorted(verdicts))
        rows.append((arm[0], arm[1], "single steps" if arm[2] == 1 else "chains", str(len(of)), says, index))
    yield markdown(
        ("arm", "initialisation", "trained on", "models", "verdicts", "number index, least to median to most"), rows
    )
    again = by.get("retrained", [])
    if again:
        yield "Retrained on half of the steps of one sum with other answers: the share of other steps that follow.\n\n"
        rows = []
        for kind in sorted({one["verdict"] for one in again}):
            of = [one for one in again if one["verdict"] == kind]
            gaps = np.asarray([one["same"] - one["other"] for one in of])
            half = 1.96 * gaps.std(ddof=1) / np.sqrt(len(gaps)) if len(gaps) > 1 else np.nan
            same, other = (np.mean([one[key] for one in of]) for key in ("same", "other"))
            rows.append((kind, str(len(of)), f"{same:.0%}", f"{other:.0%}", f"{gaps.mean():+.2f} ± {half:.2f}"))
        yield markdown(("verdict", "models", "of the same sum", "of other sums", "difference (95 %)"), rows)


def share(count: int, n: int) -> str:
    if not n:
        return "-"
    low, high = wilson(count, n)
    return f"{count} of {n} ({low:.0%} to {high:.0%})"


def markdown(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stores", nargs="*", type=Path)
    parser.add_argument("--unseen", type=Path)
    parser.add_argument("--page", action="store_true")
    parser.add_argument("--check", action="store_true")
    asked = parser.parse_args()
    if asked.stores:
        torch.set_num_threads(1)
        found = runs(asked.stores, asked.unseen)
        models: list[dict[str, Any]] = []
        for part in (untrained(), shuffled(found), constructed(), trained(found)):
            for model in part:
                models.append(model)
                print(f"{len(models)}: {model['group']}, {model['source']}: {model['verdict']}", file=sys.stderr)
        models += retrained(found, models)
        write_atomically(MODELS, "".join(json.dumps(one, sort_keys=True) + "\n" for one in models))
    models = [json.loads(line) for line in MODELS.read_text(encoding="utf-8").splitlines()]
    readme = HERE / "README.md"
    text = readme.read_text(encoding="utf-8")
    before, rest = text.split(BEGIN)
    made = before + BEGIN + "".join(page(models)) + END + rest.split(END)[1]
    if asked.check:
        return int(made != text)
    write_atomically(readme, made)
    return 0


if __name__ == "__main__":
    sys.exit(main())
