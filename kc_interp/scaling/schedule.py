"""What one worker does with one ensemble: train its stages, measure, probe, and give back bytes.

A stage begins with the weights that the stage before it ended with, an arm that starts from another with that arm's (or
with its embeddings of the digits alone);
AdamW's moments, the learning rate's schedule and the order of the data begin anew. Between vocabularies the symbols
that both have keep their rows; the others are fresh.

An ensemble that the device's memory cannot hold is trained in parts, one after another: the same runs, up to rounding.
"""

from __future__ import annotations

import dataclasses
import datetime
import itertools
import json
import math
import re
import subprocess
import tempfile
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy
import torch

from kc_interp import checkpoint, evaluation, metrics, plugins
from kc_interp.checkpoint import Checkpoint
from kc_interp.errors import CheckpointError, SpecError
from kc_interp.finding import to_plain
from kc_interp.model import parameters
from kc_interp.model.device import free_bytes, torch_device
from kc_interp.probe import Subject
from kc_interp.probing import run_probes
from kc_interp.records import lean
from kc_interp.scaling.study import Criterion, Ensemble, Run
from kc_interp.spec import RunSpec
from kc_interp.tokens import Tokens
from kc_interp.train import Ensemble as Training
from kc_interp.train import Progress, digit_tokens, memory_bytes, train, train_budgets, with_steps

SHARE_OF_FREE = 0.6
"""An ensemble may take so much of the memory that is free: allocators keep up to half as much again for later."""

_KEY = "kc_interp"


@dataclass(frozen=True)
class Job:
    """One ensemble with everything needed to work on it: the same in a process next door and on another machine.

    `starts`: checkpoint files by the key of the run whose weights a member needs to begin. `states`: a folder in which
    training keeps its state, so that it goes on after a kill; None where the worker may not see the driver's disk.
    """

    ensemble: Ensemble
    criterion: Criterion
    items: int = 1_000
    probes: tuple[str, ...] = ()
    starts: Mapping[str, bytes] = field(default_factory=dict)
    states: str | None = None
    device: str = "cpu"
    threads: int | None = None


def work(job: Job, on_progress: Callable[[int], None] = lambda step: None) -> bytes:
    """Train, measure and probe an ensemble. The answer is for `unpack`: no pickle, so that it can be checked and kept.

    `on_progress` gets the number of steps done, over all stages.
    """
    if job.threads is not None:
        torch.set_num_threads(job.threads)
    runs, lines = job.ensemble.runs, job.ensemble.lines
    trained: list[Checkpoint | None] = [_opened(job.starts[run.source]) if run.source else None for run, *_ in lines]
    digits = [index for index, (run, *_) in enumerate(lines) if run.takes_digits]
    curves: dict[str, list[dict[str, Any]]] = {run.key: [] for run in runs}
    before, seconds = 0, 0.0
    finished: dict[str, Checkpoint] = {}
    stages = len(runs[0].stages)
    for stage in range(stages):
        specs = [run.stages[stage] for run, *_ in lines]
        state = None if job.states is None else Path(job.states) / f"{job.ensemble.key}.{stage}.safetensors"

        def show(progress: Progress, done: int = before) -> None:
            on_progress(done + progress.step)

        budgets = list(dict.fromkeys(run.stages[stage].train.steps for run in lines[0]))
        by_budget, took = _stage(specs, budgets, trained, digits if stage == 0 else [], state, job.device, show)
        for index, run in ((index, run) for index, line in enumerate(lines) for run in line):
            finished[run.key] = one = by_budget[run.stages[stage].train.steps][index]
            several = {"stage": stage} if stages > 1 else {}
            curves[run.key] += [
                {**_short(point), **several, "step": before + point["step"]} for point in one.training["curve"]
            ]
        before += specs[0].train.steps
        seconds += took
        trained = [finished[line[0].key] for line in lines]
    ended = [finished[run.key] for run in runs]
    measured = [measure(one, job.items) for one in ended]
    answers = [
        {
            "key": run.key,
            "parameters": one.parameter_count,
            "metrics": found,
            "learned": job.criterion.verdict(found),
            "curve": curves[run.key],
            "findings": _findings(job.probes, run, one, job.criterion.verdict(found)),
        }
        for run, one, found in zip(runs, ended, measured, strict=True)
    ]
    shared = {
        "wall_seconds": seconds / len(runs),
        "provenance": {**ended[0].provenance, "commit": commit(), "members": len(runs)},
        "made": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }
    blobs = {run.key: np.frombuffer(_bytes(one), dtype=np.uint8) for run, one in zip(runs, ended, strict=True)}
    return safetensors.numpy.save(blobs, {_KEY: json.dumps(to_plain({"runs": answers, **shared}), allow_nan=False)})


def _short(point: Mapping[str, Any]) -> dict[str, Any]:
    """A point of a learning curve to the six decimals that it can be read to: half the bytes."""
    return {name: round(value, 6) if isinstance(value, float) else value for name, value in point.items()}


def unpack(answer: bytes) -> tuple[dict[str, Any], dict[str, bytes]]:
    """What `work` found (facts as plain data) and the checkpoint file of each run by its key."""
    size = int.from_bytes(answer[:8], "little")
    facts = json.loads(json.loads(answer[8 : 8 + size])["__metadata__"][_KEY])
    return facts, {key: blob.tobytes() for key, blob in safetensors.numpy.load(answer).items()}


def states_of(folder: Path, ensemble: Ensemble) -> list[Path]:
    """The state files that training an ensemble leaves in a folder."""
    return sorted(folder.glob(f"{ensemble.key}.*.safetensors"))


def _stage(
    specs: Sequence[RunSpec],
    budgets: Sequence[int],
    starts: Sequence[Checkpoint | None],
    digits: Collection[int],
    state: Path | None,
    device: str,
    on_progress: Callable[[Progress], None],
) -> tuple[dict[int, list[Checkpoint]], float]:
    """Train one stage, in as many parts as memory asks for; the checkpoints by budget, and the seconds it took."""
    where = torch_device(device)
    parts = parts_to_fit(specs, where, free_bytes(where), copies=min(2, len(budgets)), at_least=_begun(state))
    by_budget: dict[int, list[Checkpoint]] = {steps: [] for steps in budgets}
    seconds = 0.0
    for index, part in enumerate(parts):
        path = state
        if state is not None and len(parts) > 1:
            path = state.with_name(f"{state.stem}.part-{index + 1}-of-{len(parts)}{state.suffix}")

        def show(progress: Progress, before: int = index) -> None:
            step = (before * progress.steps + progress.step) // len(parts)
            on_progress(dataclasses.replace(progress, step=step))

        found = _part(
            [specs[run] for run in part],
            budgets,
            [starts[run] for run in part],
            [place for place, run in enumerate(part) if run in digits],
            path,
            where,
            show,
        )
        for steps, ones in found.items():
            by_budget[steps] += ones
            seconds += ones[0].training["wall_seconds"]
    return by_budget, seconds


def parts_to_fit(
    specs: Sequence[RunSpec], device: torch.device, free: int | None, *, copies: int = 1, at_least: int = 1
) -> list[range]:
    """The runs in the fewest parts of nearly equal size, in order, that each fit into so much free memory (None: any).

    `copies`: see `memory_bytes`. Raises SpecError when a single run does not fit.
    """
    limit = math.inf if free is None else SHARE_OF_FREE * free
    alone = max(memory_bytes([spec], device, copies=copies) for spec in specs)
    if free is not None and alone > limit:
        raise SpecError(
            f"a single run of d_model {specs[0].model.d_model} with batches of {specs[0].train.batch_size} takes about "
            f"{alone / 2**30:.2f} GiB on {device}, and {free / 2**30:.2f} GiB are free, of which it may take "
            f"{100 * SHARE_OF_FREE:.0f} %; lower batch_size or n_train, or use another device"
        )
    for count in range(min(at_least, len(specs)), len(specs) + 1):
        parts = [range(*edge) for edge in itertools.pairwise(len(specs) * part // count for part in range(count + 1))]
        if all(memory_bytes([specs[run] for run in part], device, copies=copies) <= limit for part in parts):
            break
    return parts


def _begun(state: Path | None) -> int:
    """In how many parts an earlier try has begun: their states are worth more than fewer parts."""
    left = [] if state is None else state.parent.glob(f"{state.stem}.part-*{state.suffix}")
    found = [re.search(r"\.part-\d+-of-(\d+)\.", path.name) for path in left]
    return max((int(one[1]) for one in found if one), default=1)


def _part(
    specs: Sequence[RunSpec],
    budgets: Sequence[int],
    starts: Sequence[Checkpoint | None],
    digits: Collection[int],
    state: Path | None,
    where: torch.device,
    on_progress: Callable[[Progress], None],
) -> dict[int, list[Checkpoint]]:
    """Train some runs of a stage, from a state that an earlier try left, from other weights, or from the beginning.

    The checkpoints are by budget: with several of them a trunk is trained, and from it every budget's cool-down.
    """
    with tempfile.TemporaryDirectory() as scratch:
        path = state if state is not None else Path(scratch) / "state.safetensors"

        def trained() -> dict[int, list[Checkpoint]]:
            if len(budgets) > 1:
                return train_budgets(specs, budgets, path, device=where, on_progress=on_progress)
            kept = path if state is not None or path.exists() else None
            return {budgets[0]: train(specs, state_path=kept, device=where, resume=True, on_progress=on_progress)}

        if left := list(path.parent.glob(f"{path.stem}.*safetensors")):
            try:
                return trained()
            except CheckpointError:  # of another version, or damaged: what it saved is only time
                for one in left:
                    one.unlink(missing_ok=True)
        if any(start is not None for start in starts):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(warm_state(specs, starts, where, budgets=budgets, digits=digits))
        return trained()


def warm_state(
    specs: Sequence[RunSpec],
    starts: Sequence[Checkpoint | None],
    device: torch.device,
    *,
    budgets: Sequence[int] = (),
    digits: Collection[int] = (),
) -> bytes:
    """The state of an ensemble that has made no step yet and holds other runs' weights, for `train(resume=True)`.

    Of the members `digits` only the digits' embeddings are another run's.
    """
    if budgets:
        specs = [with_steps(spec, max(budgets)) for spec in specs]
    ensemble = Training(specs, device, budgets=budgets)
    for run, start in enumerate(starts):
        if start is None:
            continue
        member = ensemble.members[run]
        fresh = ensemble.member_params(run)
        take = with_digits if run in digits else transplanted
        taken = take(start, fresh, tokens=member.tokens)
        for name, value in taken.items():
            with torch.no_grad():
                ensemble.params[name][run][tuple(slice(size) for size in value.shape)].copy_(value)
    return ensemble.state()


def with_digits(start: Checkpoint, fresh: Mapping[str, torch.Tensor], *, tokens: Tokens) -> parameters.Parameters:
    """`fresh` parameters of a model with this vocabulary, but its digits' embeddings are those of a trained one.

    Raises CheckpointError when that one has other digits or another width.
    """
    theirs = {start.tokens.symbols[token]: token for token in digit_tokens(start.tokens)}
    ours = {tokens.symbols[token]: token for token in digit_tokens(tokens)}
    source, embeddings = start.params["embed.W_E"], fresh["embed.W_E"].clone()
    if ours.keys() - theirs.keys() or source.shape[1] != embeddings.shape[1]:
        raise CheckpointError(
            f"embeddings of {' '.join(ours)} at d_model {embeddings.shape[1]} are to be those of a model that has "
            f"{' '.join(theirs) or 'none'} at d_model {source.shape[1]}"
        )
    embeddings[list(ours.values())] = source[[theirs[symbol] for symbol in ours]].to(embeddings)
    return {**fresh, "embed.W_E": embeddings}


def transplanted(start: Checkpoint, fresh: Mapping[str, torch.Tensor], *, tokens: Tokens) -> parameters.Parameters:
    """`fresh` parameters of a model with this vocabulary, overwritten with what a trained one shares with it.

    Rows of the embedding and columns of the unembedding follow their symbol, positions their place. Raises
    CheckpointError when the two differ in more than vocabulary and context.
    """
    here = {symbol: index for index, symbol in enumerate(tokens.symbols)}
    pairs = [(there, here[symbol]) for there, symbol in enumerate(start.tokens.symbols) if symbol in here]
    theirs, ours = (torch.tensor(side) for side in zip(*pairs, strict=True))
    made = {}
    for name, value in fresh.items():
        source, value = start.params[name], value.clone()
        if name == "embed.W_E":
            value[ours] = source[theirs].to(value)
        elif name in ("unembed.W_U", "unembed.b_U"):
            value[..., ours] = source[..., theirs].to(value)
        elif name == "pos_embed.W_pos":
            both = min(len(value), len(source))
            value[:both] = source[:both].to(value)
        elif value.shape != source.shape:
            raise CheckpointError(
                f"weights to start from: {name} has shape {tuple(source.shape)}, expected {tuple(value.shape)}"
            )
        else:
            value.copy_(source)
        made[name] = value
    return made


def measure(one: Checkpoint, items: int) -> dict[str, Any]:
    """The sets and numbers of `kc_interp.evaluation.evaluate`, without what needs decoding (most of its time).

    By set: `n` (distinct items), `chance`, and `exact`, `answer` and `answer_nats` with their 95 % intervals.
    """
    sets = {}
    for asked in evaluation.item_sets(one, items, 0):
        forced = metrics.forced(one.stacked, one.spec.model, [metrics.Items.of(asked.chains, one.tokens)])
        found = {"exact": forced.exact, "answer": forced.answer, "answer_nats": forced.answer_nats}
        sets[asked.name] = {
            "n": len(asked.chains),
            "chance": evaluation.chance(asked.chains.answer_symbols()),
            **{name: evaluation.summary(values[0].cpu().numpy()) for name, values in found.items()},
        }
    return {"sets": sets, "items": items}


def _findings(names: Sequence[str], run: Run, one: Checkpoint, learned: bool | None) -> list[Any]:
    """What the probes say of a finished model, as its record keeps it."""
    probes = {name: plugins.make_probe(name) for name in names}
    subject = Subject(f"{run.arm}-{run.key[:8]}", one, run.seed, learned)
    return [lean(to_plain(found)) for found in run_probes(probes, [subject])]


def _bytes(one: Checkpoint) -> bytes:
    with tempfile.TemporaryDirectory() as scratch:
        return one.save(Path(scratch) / checkpoint.FILE_NAME).read_bytes()


def _opened(content: bytes) -> Checkpoint:
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / checkpoint.FILE_NAME
        path.write_bytes(content)
        return checkpoint.load(path)


def commit() -> str | None:
    """The commit of the package's source, with "+changes" when files differ; None where there is no git tree."""
    root = Path(__file__).parents[2]

    def git(*arguments: str) -> str:
        done = subprocess.run(
            ["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True, timeout=10
        )
        return done.stdout.strip()

    try:
        if Path(git("rev-parse", "--show-toplevel")) != root:
            return None  # installed somewhere inside another project
        return git("rev-parse", "HEAD") + ("+changes" if git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.SubprocessError):
        return None
