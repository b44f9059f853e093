"""From checkpoints to one report: who learned the skill in question, what the probes find, and arm against arm.

Arms are compared within one initialisation, on one skill that all models share (SUM, say), with the seed as the unit.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import kc_interp
from kc_interp import evaluation
from kc_interp.checkpoint import Checkpoint
from kc_interp.comparison import Arm, Comparison, ModelFacts, Roster
from kc_interp.errors import SpecError, did_you_mean
from kc_interp.finding import Finding
from kc_interp.probe import Probe, Subject
from kc_interp.probing import run_probes
from kc_interp.report import Document, TaskNote

_VERSIONS = ("torch", "numpy", "transformer-lens", "plotly", "circuitsvis", "scipy", "scikit-learn")


@dataclass(frozen=True)
class Model:
    """A checkpoint under the name that the report gives it, measured."""

    name: str
    checkpoint: Checkpoint

    @property
    def arm(self) -> str:
        """What it was trained on: "SUM alone", "MAX+MED+SUM"."""
        parts = list(self.checkpoint.task.components())
        if not parts:
            return self.checkpoint.spec.task.name
        return "+".join(parts) if len(parts) > 1 else f"{parts[0]} alone"

    @property
    def initialisation(self) -> str:
        """ "narrow", "wide", "hooked" or the standard deviation."""
        return str(self.checkpoint.spec.model.init)

    def learned(self, skill: str | None) -> bool | None:
        """Whether it learned the skill (None: its whole task), by the one criterion."""
        return evaluation.learned(self.checkpoint.metrics, skill)


def named(paths: Sequence[Path], checkpoints: Sequence[Checkpoint]) -> list[Model]:
    """Models under the names of their paths."""
    return [Model(name, one) for name, one in zip(names_of(paths), checkpoints, strict=True)]


def names_of(paths: Sequence[Path]) -> list[str]:
    """The shortest ends of the paths that tell them apart. Raises SpecError on a path that is named twice."""
    places = [path.resolve() for path in paths]
    places = [place.parent if place.name == "model.safetensors" else place for place in places]
    for index, place in enumerate(places):
        if place in places[:index]:
            raise SpecError(f"{paths[index]}: named twice; give each model once")
    names: list[str] = []
    for depth in range(1, max((len(place.parts) for place in places), default=0) + 1):
        names = ["/".join(place.parts[-depth:]).removesuffix(".safetensors") for place in places]
        if len(set(names)) == len(names):
            break
    return names


def measured(
    model: Model, *, items: int = evaluation.ITEMS, on_progress: Callable[[str], None] = lambda name: None
) -> Model:
    """The model with its metrics: those it carries, or freshly evaluated ones."""
    if model.checkpoint.metrics:
        return model
    metrics = evaluation.evaluate(model.checkpoint, items=items, on_progress=on_progress)
    return Model(model.name, model.checkpoint.with_metrics(metrics))


def skill_of(models: Sequence[Model], asked: str | None = None) -> str | None:
    """The component on which the models are compared: the one asked for, else SUM, else the first they all share.

    None when the models share none: then each is judged on its whole task. Raises SpecError when the one asked for is
    not part of every model's task.
    """
    shared = list(models[0].checkpoint.task.components())
    shared = [part for part in shared if all(part in model.checkpoint.task.components() for model in models)]
    if asked is not None and asked not in shared:
        raise SpecError(f"{asked!r} is not part of the task of every model{did_you_mean(asked, shared)}")
    return asked or ("SUM" if "SUM" in shared else next(iter(shared), None))


def facts(model: Model, skill: str | None) -> ModelFacts:
    """The model as the roster shows it."""
    checkpoint = model.checkpoint
    held = checkpoint.metrics["sets"]["test" if skill is None else f"test: {skill}"]
    exact = held["metrics"]["exact"]
    return ModelFacts(
        name=model.name,
        arm=model.arm,
        initialisation=model.initialisation,
        task=checkpoint.spec.task.name,
        seed=checkpoint.spec.seed,
        learned=model.learned(skill),
        accuracy=exact["value"],
        low=exact["low"],
        high=exact["high"],
        n=exact["n"],
        steps=checkpoint.training.get("steps"),
        d_model=checkpoint.spec.model.d_model,
        parameters=checkpoint.parameter_count,
    )


def roster(models: Sequence[Model], skill: str | None) -> Roster:
    """Every model, with the criterion in words and the chance level on the same items."""
    name = "test" if skill is None else f"test: {skill}"
    chances = [model.checkpoint.metrics["sets"][name]["chance"] for model in models]
    return Roster(
        tuple(facts(model, skill) for model in models),
        skill or "its task",
        evaluation.criterion(skill),
        evaluation.LEVEL,
        max(chances),
    )


def probe_models(
    probes: Mapping[str, Probe],
    models: Sequence[Model],
    skill: str | None,
    findings: dict[str, tuple[Finding, ...]],
    *,
    seed: int = 0,
    on_progress: Callable[[str, str], None] = lambda probe, model: None,
) -> None:
    """Run every probe on every model, adding to `findings` as they come, so that an interrupt loses none."""
    for model in models:
        subject = Subject(model.name, model.checkpoint, seed, model.learned(skill))
        findings.setdefault(model.name, ())
        for name, probe in probes.items():
            on_progress(name, model.name)
            findings[model.name] += run_probes({name: probe}, [subject])


def comparisons(
    a: Sequence[Model], b: Sequence[Model], findings: Mapping[str, tuple[Finding, ...]], skill: str | None
) -> tuple[tuple[Comparison, ...], tuple[str, ...]]:
    """Side a against side b within each initialisation that both have; and a note for every model left out."""
    made, notes = [], []
    by_initialisation = list(dict.fromkeys(model.initialisation for model in (*a, *b)))
    for initialisation in by_initialisation:
        sides = [[model for model in side if model.initialisation == initialisation] for side in (a, b)]
        if not all(sides):
            names = ", ".join(model.name for side in sides for model in side)
            notes.append(
                f"Not compared: {names}; the other side has no model with the {initialisation} initialisation."
            )
            continue
        arms = [
            Arm(
                " and ".join(dict.fromkeys(model.arm for model in side)),
                {model.name: findings.get(model.name, ()) for model in side},
                {model.name: model.learned(skill) for model in side},
            )
            for side in sides
        ]
        title = f"{initialisation.capitalize()} initialisation: {arms[0].name} against {arms[1].name}"
        made.append(Comparison(title, arms[0], arms[1]))
        for setting in ("d_model", "n_layers", "repeat", "n_heads"):
            values = {getattr(model.checkpoint.spec.model, setting) for side in sides for model in side}
            if len(values) > 1:
                notes.append(f"{title}: the models also differ in {setting} ({', '.join(map(str, sorted(values)))}).")
    return tuple(made), tuple(notes)


def document(
    title: str,
    models: Sequence[Model],
    findings: Mapping[str, tuple[Finding, ...]],
    skill: str | None,
    *,
    compared: tuple[Comparison, ...] = (),
    notes: tuple[str, ...] = (),
    provenance: Mapping[str, Any] | None = None,
) -> Document:
    """One report about these models."""
    return Document(
        title,
        roster(models, skill),
        {name: found for name, found in findings.items() if found},
        compared,
        {**versions(), **(provenance or {}), "checkpoints": _origins(models)},
        notes,
        task_note(models),
    )


def task_note(models: Sequence[Model]) -> TaskNote:
    """The task of the first model that has most parts, explained, with one worked example."""
    first = max(models, key=lambda model: len(model.checkpoint.task.components()))
    task = first.checkpoint.task
    says = getattr(task, "says", None) or next(iter((type(task).__doc__ or "").strip().splitlines()), "")
    subject = Subject(first.name, first.checkpoint)
    chains = subject.items(64, "an example for the report")
    longest = int(chains.lengths.argmax())
    return TaskNote(says, task.format(chains.take(slice(longest, longest + 1)))[0])


def versions() -> dict[str, Any]:
    """What ran this: versions of the package and of what the numbers rest on."""
    found = {}
    for name in _VERSIONS:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return {"kc-interp": kc_interp.__version__, "python": platform.python_version(), "versions": found}


def _origins(models: Sequence[Model]) -> dict[str, str]:
    return {
        model.name: ", ".join(
            f"{key} {value}"
            for key, value in (
                ("seed", model.checkpoint.spec.seed),
                ("split seed", model.checkpoint.spec.data.split_seed),
                ("torch", model.checkpoint.provenance.get("torch", "?")),
                ("threads", model.checkpoint.provenance.get("threads", "?")),
                ("trained beside", f"{model.checkpoint.training.get('members', 1) - 1} others"),
            )
        )
        for model in models
    }
