"""The circuit of one run over its training: at every checkpoint, and at the plateau and the jump of its accuracy.

Checkpoints of one run share their heads and their coordinates, so nothing is matched, and parts are exchanged
directly: each checkpoint's part in the trained model shows when that part has become what it will be.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from kc_interp import metrics
from kc_interp.checkpoint import Checkpoint, load
from kc_interp.circuits.effects import Effects
from kc_interp.circuits.matching import Matching, Null, Overlap, Profile, matchings, overlap, overlaps
from kc_interp.circuits.transplant import Kept, Transplant, parts
from kc_interp.errors import ProbeError
from kc_interp.metrics import Items
from kc_interp.model.graph import Graph
from kc_interp.overlap.measured import Asked, Runs, accuracy, directly, noised
from kc_interp.pairs import Pairs
from kc_interp.probe import Subject

_STEP = re.compile(r"step_(\d+)\.safetensors")

KNOWS = 0.5
"""A circuit is looked for only where the model gives at least this share of the answers that it is asked for."""

_ITEMS = 500
_NEAR = 0.25
"""The plateau is where accuracy has risen by no more than this share of all that it will rise."""


@dataclass(frozen=True)
class Point:
    """One checkpoint.

    `exact`: test items of the component answered by the exact chain. `right`: answers to the single reductions that
    circuits are found on. `effects`: of the parts, None where the model does not tell answers apart, and `profile`
    None where it does not know them (`refusal` says which). `final`: overlap with the last checkpoint's circuit on the
    other half of the inputs, and of random matchings of heads. `into`: the trained model with this one's parts.
    """

    step: int
    exact: Kept
    right: Kept
    effects: Effects | None
    profile: Profile | None
    refusal: str
    final: tuple[Overlap, Null] | None = None
    into: tuple[Transplant, ...] = ()


@dataclass(frozen=True)
class Jump:
    """Between which two checkpoints accuracy rises most, and the last checkpoint of the plateau before it, by index."""

    before: int
    after: int
    plateau: int | None
    rise: float


@dataclass(frozen=True)
class History:
    """A run by its checkpoints, in order; `groups` names the parts whose effects the points hold.

    `jump` is that of exact chains, `jump_right` that of the answers which the circuit is about: they need not be one.
    """

    name: str
    points: tuple[Point, ...]
    groups: tuple[str, ...]
    jump: Jump | None
    jump_right: Jump | None


def checkpoints(folder: Path, *, device: torch.device | str = "cpu") -> list[tuple[int, Checkpoint]]:
    """The checkpoints of a run's folder by step, the finished model last. Raises ProbeError where there are too few."""
    along = sorted(
        (int(found[1]), path)
        for path in (folder / "checkpoints").glob("step_*.safetensors")
        if (found := _STEP.fullmatch(path.name))
    )
    if len(along) < 2:
        raise ProbeError(
            f"{folder}: holds {len(along)} checkpoints along the way, at least 2 are needed to see a circuit form; "
            "give the folder of a run (kc-interp train --out), trained with a smaller train.checkpoint_every"
        )
    run = [(step, load(path, device=device)) for step, path in along]
    last = load(folder, device=device)
    return [*run, (int(last.training.get("steps", run[-1][0] + 1)), last)]


def history(
    name: str,
    run: Sequence[tuple[int, Checkpoint]],
    asked: Asked,
    *,
    seed: int = 0,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> History:
    """Every checkpoint of a run. Raises ProbeError when the last one does not know the component well enough."""
    subjects = [Subject(name, one, seed) for _, one in run]
    pairs = asked.halves(subjects[-1])
    graph = Graph.of(subjects[-1].checkpoint.spec.model)
    groups = {part.name: part.writers for part in parts(graph, heads=False) if not part.constants}
    found = []
    for index, ((step, _), subject) in enumerate(zip(run, subjects, strict=True)):
        on_progress(index, len(run))
        found.append(_point(step, subject, asked, pairs, groups))
    last = found[-1]
    if last.profile is None:
        raise ProbeError(f"{name}: the last checkpoint has no circuit to compare with ({last.refusal})")
    other = Profile.of(noised(subjects[-1], pairs[1], asked.resamples), asked.keep)
    runs = [Runs.of(subject, asked, donors=0) for subject in subjects]
    every, exact = matchings(last.profile.spec, subjects[-1].rng("overlap: over training"))
    points = tuple(
        dataclasses.replace(
            point,
            final=None if point.profile is None else _with_final(point.profile, other, every, exact),
            into=directly(own, runs[-1]),
        )
        for point, own in zip(found, runs, strict=True)
    )
    jumps = (jump([getattr(point, kind).share for point in points]) for kind in ("exact", "right"))
    return History(name, points, tuple(groups), *jumps)


def _point(
    step: int, subject: Subject, asked: Asked, pairs: Sequence[Pairs], groups: dict[str, tuple[int, ...]]
) -> Point:
    exact, right = _exact(subject, asked.component), accuracy(subject, pairs)
    try:
        noising = noised(subject, pairs[0], asked.resamples)
    except ProbeError as refusal:
        return Point(step, exact, right, None, None, str(refusal))
    everywhere, varying = range(noising.base.positions), noising.base.graph.varying
    effects = noising.at(
        [([edge for edge in varying if edge[0] in writers], everywhere) for writers in groups.values()]
    )
    if right.share < KNOWS:
        return Point(
            step, exact, right, effects, None, f"{right.share:.0%} of the answers are right, {KNOWS:.0%} asked"
        )
    return Point(step, exact, right, effects, Profile.of(noising, asked.keep), "")


@torch.no_grad()
def _exact(subject: Subject, component: str | None) -> Kept:
    """Exact chains on test items of the component, by one teacher-forced pass."""
    items = Items.of(subject.items(_ITEMS, "over training", subject.component(component)), subject.tokens)
    right = metrics.exact(subject.params, subject.checkpoint.spec.model, [items])[0]
    return Kept.counted(int(right.sum()), len(right))


def _with_final(own: Profile, last: Profile, every: Sequence[Matching], exact: bool) -> tuple[Overlap, Null]:
    found = overlap(own, last)
    return found, Null.of(found.weighted, [one.weighted for one in overlaps(own, last, every)], exact=exact)


def jump(accuracy: Sequence[float]) -> Jump | None:
    """Where accuracy rises most between two checkpoints; None when it never rises.

    The plateau ends with the last checkpoint before the jump that has risen by at most a quarter of what accuracy rises
    in all; None when there is none.
    """
    rises = np.diff(np.asarray(accuracy, dtype=float))
    if not len(rises) or rises.max() <= 0:
        return None
    before = int(rises.argmax())
    limit = accuracy[0] + _NEAR * (max(accuracy) - accuracy[0])
    flat = [index for index in range(before + 1) if accuracy[index] <= limit]
    return Jump(before, before + 1, flat[-1] if flat else None, float(rises[before]))
