"""Training: one model or many of one shape at once, each with its own task, seed, initialisation, order and clipping.

The members of an ensemble share every matrix product and nothing else: each has its own loss, its own gradient norm
and its own optimiser state, so that a member is the run it would have been alone, up to rounding. Parameters live in
one flat buffer per run, which makes clipping and AdamW a handful of operations whatever the number of tensors. A step
never waits for the device: the host looks at numbers only when it reports, evaluates or keeps the state.

Runs of schedule trunk that differ only in their steps have a trunk in common and are trained for all their budgets at
once (`train_budgets`): a budget's cool-down branches off a state that is, to the bit, that of its run trained alone.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import math
import platform
import signal
import threading
import time
import weakref
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import safetensors.torch
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import kc_interp
from kc_interp import checkpoint, metrics, plugins
from kc_interp.batches import CHUNK, IGNORE, Batches, EnsembleBatches
from kc_interp.checkpoint import Checkpoint
from kc_interp.data import Split
from kc_interp.errors import CheckpointError, SpecError
from kc_interp.files import write_atomically
from kc_interp.model import parameters
from kc_interp.model.device import tune_for_training
from kc_interp.model.forward import forward
from kc_interp.spec import ModelSpec, RunSpec, TrainSpec, to_plain
from kc_interp.tasks.task import Task
from kc_interp.tokens import Tokens

STATE_NAME = "train-state.safetensors"
EVALUATIONS = 40
EVALUATION_ITEMS = 256
EVALUATED_TOGETHER = 64
"""At most so many runs are evaluated in one pass: an evaluation then needs no more memory than the steps before it."""

MASTERED = 0.999
"""The accuracy on a run's mixture that `stop_after` waits for."""

_UNUSED_LOGIT = -1e9


@dataclass(frozen=True)
class Progress:
    """Where an ensemble stands: one number a run. `accuracy` is strict, teacher-forced, on test items of the mixture.

    It is None until the first evaluation.
    """

    step: int
    steps: int
    loss_nats: Sequence[float]
    accuracy: Sequence[float] | None
    examples_per_second: float


def learning_rate(spec: TrainSpec, step: int) -> float:
    """The rate of the update after `step` updates, by the schedule of the settings."""
    warm = spec.warmup_steps
    if step < warm:
        return spec.lr * (step + 1) / warm
    if spec.schedule == "trunk":
        cooled = max(0, step - spec.trunk_steps) / max(spec.steps - spec.trunk_steps, 1)
        return spec.lr * (1 - (1 - spec.final_lr) * cooled)
    done = (step - warm) / max(spec.steps - warm, 1)
    if spec.schedule == "onecycle":
        return spec.lr * (spec.final_lr + (1 - spec.final_lr) * 0.5 * (1 + math.cos(math.pi * done)))
    return spec.lr * spec.final_lr**done if spec.schedule == "exponential" else spec.lr


@dataclass
class _Member:
    """What one run of the ensemble reads and is."""

    spec: RunSpec
    task: Task
    tokens: Tokens
    n_ctx: int
    batches: Batches
    tests: dict[str, metrics.Items]


def prepare(spec: RunSpec, cache: dict[Any, Any] | None = None) -> _Member:
    """Draw a run's training chains and test items. Runs that differ only in model or training share them by `cache`."""
    cache = {} if cache is None else cache
    task = plugins.make_task(spec.task)
    tokens = Tokens.of(task, spec.data.vocabulary)
    split = Split.of(task, spec.data)
    key = _data_key(spec)
    if key not in cache:
        chains = split.draw(task, spec.data.n_train, np.random.default_rng([2, spec.seed]), test=False)
        cache[key] = (tokens.encode(chains.symbols).astype(np.int16), chains.lengths, chains.prompts)
    # The test items of a task are every seed's and every sample size's.
    shared = _data_key(dataclasses.replace(spec, data=dataclasses.replace(spec.data, n_train=1), seed=0)) + "tests"
    if shared not in cache:
        parts = {"mixture": task, **(task.components() if len(task.components()) > 1 else {})}
        cache[shared] = {name: _test_items(split, name, part, tokens) for name, part in parts.items()}
    ids, lengths, prompts = cache[key]
    batches = Batches(ids, lengths, prompts, spec.train, spec.seed)
    return _Member(spec, task, tokens, checkpoint.context_length(spec, task), batches, cache[shared])


def _data_key(spec: RunSpec) -> str:
    """What decides a run's training chains."""
    return json.dumps([to_plain(spec.task), to_plain(spec.data), spec.seed], sort_keys=True)


def _test_items(split: Split, name: str, task: Task, tokens: Tokens) -> metrics.Items:
    """Items for the learning curve: by split and name alone, so that every mixture is judged on the same ones."""
    rng = np.random.default_rng([3, split.spec.split_seed, zlib.crc32(name.encode())])
    return metrics.Items.of(split.draw(task, EVALUATION_ITEMS, rng, test=True), tokens)


@dataclass
class _Curve:
    """The learning curves of a budget as far as they go, and the sum of each run's losses since their last point."""

    steps: int
    losses: Float[Tensor, " run"]
    points: list[dict[str, Any]] = field(default_factory=list)

    def due(self, done: int) -> bool:
        return done % max(1, self.steps // EVALUATIONS) == 0 or done == self.steps


class _AdamW:
    """AdamW over rows of the flat parameters: torch's fused update, one call for all runs with the same settings.

    A run's row is updated as torch.optim.AdamW(fused=True) updates it alone, to the bit.
    """

    def __init__(self, flat: Float[Tensor, "run parameter"], specs: Sequence[TrainSpec]) -> None:
        self._flat, self._specs = flat, specs
        self.exp_avg, self.exp_avg_sq = torch.zeros_like(flat), torch.zeros_like(flat)
        self._steps = torch.zeros((), device=flat.device)
        self.only(range(len(specs)))

    def only(self, runs: Sequence[int]) -> None:
        """Update these runs from now on; the others stay as they are."""
        self._groups: dict[TrainSpec, list[int]] = {}
        for run in runs:
            self._groups.setdefault(dataclasses.replace(self._specs[run], clip=1.0), []).append(run)

    def restore(self, exp_avg: Tensor, exp_avg_sq: Tensor, steps: int) -> None:
        self.exp_avg.copy_(exp_avg)
        self.exp_avg_sq.copy_(exp_avg_sq)
        self._steps.fill_(steps)

    @torch.no_grad()
    def step(self, gradients: Float[Tensor, "run parameter"], done: int) -> None:
        """The update after `done` updates."""
        self._steps += 1
        rows = [tensor.unbind() for tensor in (self._flat, gradients, self.exp_avg, self.exp_avg_sq)]
        for spec, runs in self._groups.items():
            params, grads, exp_avgs, exp_avg_sqs = ([part[run] for run in runs] for part in rows)
            torch._fused_adamw_(
                params,
                grads,
                exp_avgs,
                exp_avg_sqs,
                [],
                [self._steps] * len(runs),
                lr=learning_rate(spec, done),
                beta1=spec.betas[0],
                beta2=spec.betas[1],
                weight_decay=spec.weight_decay,
                eps=1e-8,
                amsgrad=False,
                maximize=False,
            )


class Ensemble:
    """Several runs of one model shape, trained together. `step()` makes one update of every run.

    Runs may differ in task, data, seed, initialisation, learning rate and its schedule, weight decay, clipping, early
    stop and in whether their digits' embeddings are frozen.
    Vocabularies and contexts of different size are padded to the largest; the padding never receives a gradient.
    Learning curves are kept for the smaller `budgets` too, so that their branches have them. Ensembles with the same
    data share it by `cache`.
    """

    def __init__(
        self,
        specs: Sequence[RunSpec],
        device: torch.device | str = "cpu",
        *,
        budgets: Sequence[int] = (),
        cache: dict[Any, Any] | None = None,
    ) -> None:
        cache = {} if cache is None else cache
        self._require_alike(specs)
        self.device = torch.device(device)
        self.members = [prepare(spec, cache) for spec in specs]
        self.model = specs[0].model
        self.done = 0
        self.seconds = 0.0
        self._dtype = torch.float64 if specs[0].train.dtype == "float64" else torch.float32
        self._bfloat16 = specs[0].train.dtype == "bfloat16"
        if self._bfloat16 and not (self.device.type == "cuda" and torch.cuda.is_bf16_supported()):
            raise SpecError("dtype bfloat16 needs a CUDA device that has it; use float32")
        self._tf32 = specs[0].train.dtype == "tf32"
        if self._tf32 and self.device.type != "cuda":
            raise SpecError("dtype tf32 needs a CUDA device; use float32")
        self._d_vocab = max(len(member.tokens) for member in self.members)
        self._n_ctx = max(member.n_ctx for member in self.members)
        self._shapes = parameters.shapes(self.model, d_vocab=self._d_vocab, n_ctx=self._n_ctx)
        sizes = [math.prod(shape) for shape in self._shapes.values()]
        self._flat = torch.zeros(len(specs), sum(sizes), dtype=self._dtype, device=self.device)
        self.params = {
            name: part.view(len(specs), *shape).requires_grad_(not parameters.is_frozen(name, self.model))
            for (name, shape), part in zip(self._shapes.items(), self._flat.split(sizes, dim=1), strict=True)
        }
        for run, member in enumerate(self.members):
            self._write(run, initial_parameters(member.spec, d_vocab=len(member.tokens), n_ctx=member.n_ctx))
        self._batches = EnsembleBatches([member.batches for member in self.members], self.device)
        self._optimiser = _AdamW(self._flat, [spec.train for spec in specs])
        self._ended: dict[int, int] = {}
        self._clip = torch.tensor([spec.train.clip for spec in specs], dtype=self._dtype, device=self.device)
        self._unused = self._mask_unused()
        self._frozen = self._frozen_rows()
        self._curves = {
            steps: _Curve(steps, torch.zeros(len(specs), dtype=self._dtype, device=self.device))
            for steps in dict.fromkeys((self.steps, *budgets))
        }

    @property
    def steps(self) -> int:
        """How many steps its runs make in all."""
        return self.members[0].spec.train.steps

    @property
    def curve(self) -> list[dict[str, Any]]:
        """The points of the learning curves so far."""
        return self._curves[self.steps].points

    @property
    def over(self) -> bool:
        """Whether its runs have made all their steps, or have all stopped early."""
        return self.done == self.steps or len(self._ended) == len(self.members)

    @staticmethod
    def _require_alike(specs: Sequence[RunSpec]) -> None:
        def shape(spec: RunSpec) -> Any:
            train = spec.train
            return (
                dataclasses.replace(spec.model, init="wide", scale_residual=True, n_ctx=None, digits=None),
                (train.steps, train.batch_size, train.dtype),
            )

        for spec in specs[1:]:
            if shape(spec) != shape(specs[0]):
                raise SpecError(
                    "the runs of an ensemble share model shape, steps, batch size and dtype; "
                    f"found {shape(specs[0])} and {shape(spec)}"
                )

    def _mask_unused(self) -> Tensor | None:
        """A large negative logit for the tokens that pad a smaller vocabulary; None when none does."""
        sizes = torch.tensor([len(member.tokens) for member in self.members], device=self.device)
        unused = torch.arange(self._d_vocab, device=self.device) >= sizes[:, None]
        return (unused * _UNUSED_LOGIT).to(self._dtype)[:, None, None] if unused.any() else None

    def _frozen_rows(self) -> tuple[Int[Tensor, " row"], Int[Tensor, " row"]] | None:
        """Run and token of every embedding that stays as it is; None when none does."""
        rows = [
            (run, token)
            for run, member in enumerate(self.members)
            if member.spec.train.freeze_digits
            for token in digit_tokens(member.tokens)
        ]
        if not rows:
            return None
        runs, tokens = torch.tensor(rows, device=self.device).unbind(1)
        return runs, tokens

    def _slices(self, run: int) -> Iterator[tuple[str, Tensor]]:
        """Views of one run's parameters without the padding of its vocabulary and context."""
        member = self.members[run]
        wanted = parameters.shapes(self.model, d_vocab=len(member.tokens), n_ctx=member.n_ctx)
        for name, shape in wanted.items():
            yield name, self.params[name].detach()[run][tuple(slice(size) for size in shape)]

    def _write(self, run: int, params: Mapping[str, Tensor]) -> None:
        for name, view in self._slices(run):
            view.copy_(params[name])

    def member_params(self, run: int) -> parameters.Parameters:
        """One run's parameters as they stand, copied to the CPU in float32 (float64 stays)."""
        return {name: view.cpu().clone() for name, view in self._slices(run)}

    def batch(self, step: int) -> tuple[Int[Tensor, "run batch pos"], Int[Tensor, "run batch pos"]]:
        """Tokens and targets of every run at a step, padded to the widest."""
        return self._batches[step]

    def losses(
        self, tokens: Int[Tensor, "run batch pos"], targets: Int[Tensor, "run batch pos"]
    ) -> Float[Tensor, " run"]:
        """Mean cross-entropy of each run over the positions that count, in nats."""
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self._bfloat16):
            logits = forward(self.params, self.model, tokens)
        logits = logits.to(self._dtype)
        if self._unused is not None:
            logits = logits + self._unused
        each = F.cross_entropy(logits.flatten(0, 2), targets.flatten(), reduction="none", ignore_index=IGNORE)
        # A short crop may hold nothing that counts: then there is no loss, rather than no number.
        counted = (targets != IGNORE).flatten(1).sum(1).clamp(min=1)
        return each.view(len(self.members), -1).sum(1) / counted

    def gradients(self, losses: Float[Tensor, " run"]) -> Float[Tensor, "run parameter"]:
        """The gradient of each run's own loss, in the flat layout; zero for frozen parameters."""
        trained = [value for value in self.params.values() if value.requires_grad]
        found = iter(torch.autograd.grad(losses.sum(), trained))
        parts = {
            name: next(found) if value.requires_grad else torch.zeros_like(value) for name, value in self.params.items()
        }
        if self._frozen is not None:
            parts["embed.W_E"][self._frozen] = 0
        return torch.cat([part.flatten(1) for part in parts.values()], dim=1)

    def step(self) -> Float[Tensor, " run"]:
        """One update of every run; returns the losses before it, on the device: whether to read them is up to you."""
        losses = self.update(*self.batch(self.done))
        self.done += 1
        for curve in self._curves.values():
            curve.losses += losses
        return losses

    def update(
        self, tokens: Int[Tensor, "run batch pos"], targets: Int[Tensor, "run batch pos"]
    ) -> Float[Tensor, " run"]:
        """Move every run's parameters by its loss on a batch, at the rate of the step at hand; the losses before it."""
        with _tf32_products(self._tf32):
            losses = self.losses(tokens, targets)
            gradients = self.gradients(losses)
        norms = gradients.norm(dim=1)
        gradients *= (self._clip / (norms + 1e-6)).clamp(max=1)[:, None]
        embeddings = self.params["embed.W_E"].detach()
        frozen = None if self._frozen is None else embeddings[self._frozen]
        self._optimiser.step(gradients, self.done)
        if self._frozen is not None and frozen is not None:
            embeddings[self._frozen] = frozen  # weight decay would move them
        return losses.detach()

    def record(self) -> None:
        """Add a point to the learning curves: the mean loss since the last one, and accuracy now.

        The loss of a run that has diverged is None.
        """
        self._record(list(self._curves.values()))

    def record_if_due(self) -> None:
        """Add a point to those learning curves that have one at this step."""
        self._record([curve for curve in self._curves.values() if curve.due(self.done)])

    def _record(self, curves: Sequence[_Curve]) -> None:
        accuracy = self.evaluate() if curves else []
        for curve in curves:
            since = curve.points[-1]["step"] if curve.points else 0
            losses = (curve.losses / (self.done - since)).tolist()
            curve.losses.zero_()
            finite = [loss if math.isfinite(loss) else None for loss in losses]
            curve.points.append({"step": self.done, "loss_nats": finite, "accuracy": accuracy})
        self._stop_early()

    def _stop_early(self) -> None:
        """Leave the runs as they are whose curve says that they have learned: a resumed ensemble finds the same."""
        for run, member in enumerate(self.members):
            wanted, in_a_row = member.spec.train.stop_after, 0
            for point in self.curve if wanted and run not in self._ended else ():
                in_a_row = in_a_row + 1 if point["accuracy"][run]["mixture"] >= MASTERED else 0
                if in_a_row == wanted:
                    self._ended[run] = point["step"]
                    break
        self._optimiser.only([run for run in range(len(self.members)) if run not in self._ended])

    def evaluate(self) -> list[dict[str, float]]:
        """Strict teacher-forced accuracy of every run, on its mixture and on each operation alone."""
        scores: list[dict[str, float]] = [{} for _ in self.members]
        for name in dict.fromkeys(name for member in self.members for name in member.tests):
            asked = [run for run, member in enumerate(self.members) if name in member.tests]
            for first in range(0, len(asked), EVALUATED_TOGETHER):
                runs = asked[first : first + EVALUATED_TOGETHER]
                chosen = {key: value.detach()[runs] for key, value in self.params.items()}
                exact = metrics.exact(chosen, self.model, [self.members[run].tests[name] for run in runs])
                for run, value in zip(runs, exact.float().mean(1).tolist(), strict=True):
                    scores[run][name] = value
        return scores

    def state(self) -> bytes:
        """Everything needed to go on, as a safetensors file's bytes: three copies of the parameters and the curves."""
        return self._packed(self.steps, [curve for curve in self._curves.values() if curve.steps != self.steps])

    def branch(self, steps: int) -> bytes:
        """The state, at this moment, of the same runs with a smaller budget, whose curve then ends here.

        The time taken so far goes with it, so that branches count the trunk's once. Raises CheckpointError on a trunk
        that has gone past the branching point or keeps no curve for this budget.
        """
        train = with_steps(self.members[0].spec, steps).train
        if self.done != train.trunk_steps or steps not in self._curves:
            raise CheckpointError(
                f"the trunk is at step {self.done}; a budget of {steps} branches at {train.trunk_steps}"
            )
        state = self._packed(steps, [])
        self.seconds = 0.0
        if steps != self.steps:
            del self._curves[steps]
        return state

    def _packed(self, steps: int, others: Sequence[_Curve]) -> bytes:
        """The state of the runs with this budget; with the curves of `others` beside their own."""
        own = self._curves[steps]
        tensors = {"params": self._flat, "loss_sum": own.losses}
        tensors |= {f"loss_sum.{curve.steps}": curve.losses for curve in others}
        tensors |= {"exp_avg": self._optimiser.exp_avg, "exp_avg_sq": self._optimiser.exp_avg_sq}
        described = {"schema": checkpoint.SCHEMA, "kind": "train-state", "step": self.done, "curve": own.points}
        specs = [to_plain(with_steps(member.spec, steps)) for member in self.members]
        beside = {"curves": {str(curve.steps): curve.points for curve in others}} if others else {}
        return checkpoint.pack(tensors, {**described, **beside, "specs": specs, "seconds": self.seconds})

    def restore(self, path: Path) -> None:
        """Continue from a state file. Raises CheckpointError when it is not one, or is of other runs."""
        described, shapes = checkpoint.peek(path, kind="train-state")
        if described["specs"] != json.loads(json.dumps([to_plain(member.spec) for member in self.members])):
            raise CheckpointError(
                f"{path}: belongs to a run with other settings; resume with the settings it began with"
            )
        wanted = dict.fromkeys(("params", "exp_avg", "exp_avg_sq"), tuple(self._flat.shape))
        curves = {"loss_sum": (self.steps, described["curve"])}
        curves |= {f"loss_sum.{steps}": (int(steps), points) for steps, points in described.get("curves", {}).items()}
        wanted |= dict.fromkeys(curves, (len(self.members),))
        if shapes != wanted:
            raise CheckpointError(f"{path}: holds tensors of shape {shapes}, this run needs {wanted}")
        tensors = safetensors.torch.load_file(path, device=str(self.device))
        self.done, self.seconds = described["step"], described["seconds"]
        self._curves = {steps: _Curve(steps, tensors[name], points) for name, (steps, points) in curves.items()}
        with torch.no_grad():
            self._flat.copy_(tensors["params"])
        self._optimiser.restore(tensors["exp_avg"], tensors["exp_avg_sq"], self.done)
        self._stop_early()

    def checkpoints(self) -> list[Checkpoint]:
        """Every run as a checkpoint, with its own learning curve; that of a run that stopped early ends there."""
        ends = [self._ended.get(run, self.done) for run in range(len(self.members))]
        return [
            Checkpoint(
                member.spec,
                self.member_params(run),
                training={
                    "steps": ends[run],
                    "members": len(self.members),
                    "wall_seconds": self.seconds,
                    "curve": [
                        {"step": row["step"], "loss_nats": row["loss_nats"][run], **row["accuracy"][run]}
                        for row in self.curve
                        if row["step"] <= ends[run]
                    ],
                },
                provenance=provenance(self.device),
            )
            for run, member in enumerate(self.members)
        ]


@contextlib.contextmanager
def _tf32_products(wanted: bool) -> Iterator[None]:
    """Matrix products in tf32 while it is entered: torch's setting is the process's, not a tensor's."""
    before = torch.get_float32_matmul_precision()
    if wanted:
        torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        if wanted:
            torch.set_float32_matmul_precision(before)


def memory_bytes(specs: Sequence[RunSpec], device: torch.device | str = "cpu", *, copies: int = 1) -> int:
    """About what an ensemble of these runs takes at its peak, beside torch itself, on its device; nothing is drawn.

    `copies`: how many ensembles are alive at a time (a trunk and a branch are two). For the longest batch that the
    task's chains allow; within 30 % of what a CPU was seen to take (tests/test_scale.py), less what the allocator
    keeps for later, which may be half as much again. In bfloat16 it is less.
    """
    plan, model, runs = specs[0].train, specs[0].model, len(specs)
    tasks = {json.dumps([to_plain(spec.task), spec.data.vocabulary], sort_keys=True): spec for spec in specs}
    made = {key: plugins.make_task(spec.task) for key, spec in tasks.items()}
    d_vocab = max(len(Tokens.of(made[key], spec.data.vocabulary)) for key, spec in tasks.items())
    n_ctx = max(checkpoint.context_length(spec, made[key]) for key, spec in tasks.items())
    longest = max(task.max_length for task in made.values())
    read = max(spec.train.crop if spec.train.batches == "stream" else longest - 1 for spec in specs)
    number = 8 if plan.dtype == "float64" else 4
    states = (
        3 * runs * number * sum(math.prod(s) for s in parameters.shapes(model, d_vocab=d_vocab, n_ctx=n_ctx).values())
    )
    training, evaluating = _peak_bytes(model, d_vocab, n_ctx, plan.batch_size, read, longest)
    working = max(runs * training, min(runs, EVALUATED_TOGETHER) * evaluating) * number // 4
    samples = sum({_data_key(spec): 2 * spec.data.n_train * longest for spec in specs}.values())
    if torch.device(device).type == "cpu":
        samples *= 2  # the host's own, and those in the order to be read
    return copies * (states + samples + 4 * CHUNK * plan.batch_size * runs) + working


@functools.lru_cache
def _peak_bytes(
    model: ModelSpec, d_vocab: int, n_ctx: int, batch: int, positions: int, longest: int
) -> tuple[int, int]:
    """What a run's float32 step and evaluation take at their peaks: both are made, on torch's device without memory."""
    runs = 2  # a run of its own takes another way through `forward`
    table = parameters.shapes(model, d_vocab=d_vocab, n_ctx=n_ctx)
    params = {name: torch.empty(runs, *shape, device="meta", requires_grad=True) for name, shape in table.items()}
    with _Live() as step:
        tokens = torch.zeros(runs, batch, positions, dtype=torch.int64, device="meta")
        logits = forward(params, model, tokens)
        loss = F.cross_entropy(logits.flatten(0, 2), tokens.flatten(), reduction="none").sum()
        torch.cat([part.flatten(1) for part in torch.autograd.grad(loss, list(params.values()))], dim=1)
    ids, one = (
        torch.zeros(EVALUATION_ITEMS, longest, dtype=torch.int64),
        torch.ones(EVALUATION_ITEMS, dtype=torch.int64),
    )
    items = metrics.Items(ids, one * longest, one, one, 0, d_vocab)
    with _Live() as evaluation:
        chosen = {name: value.detach().clone() for name, value in params.items()}
        metrics.exact(chosen, model, [items] * runs)
    return step.peak // runs, evaluation.peak // runs


class _Live(TorchDispatchMode):
    """Counts the bytes of the tensors without memory that are made while it is entered and still alive."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak = self._now = 0
        self._held: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for tensor in made if isinstance(made, (tuple, list)) else [made]:
            if not isinstance(tensor, Tensor) or tensor.device.type != "meta":
                continue
            storage = tensor.untyped_storage()
            key, size = storage._cdata, storage.nbytes()
            if key not in self._held:
                self._held.add(key)
                self._now += size
                weakref.finalize(storage, self._freed, key, size)
        self.peak = max(self.peak, self._now)
        return made

    def _freed(self, key: int, size: int) -> None:
        self._held.discard(key)
        self._now -= size


def with_steps(spec: RunSpec, steps: int) -> RunSpec:
    """The same run with another budget."""
    return dataclasses.replace(spec, train=dataclasses.replace(spec.train, steps=steps))


def initial_parameters(spec: RunSpec, *, d_vocab: int, n_ctx: int) -> parameters.Parameters:
    """A run's fresh parameters: a function of its settings and seed alone."""
    generator = torch.Generator().manual_seed(spec.seed)
    fresh = parameters.initialise(spec.model, generator, d_vocab=d_vocab, n_ctx=n_ctx)
    if spec.model.digits is not None:
        digits = digit_tokens(Tokens.of(plugins.make_task(spec.task), spec.data.vocabulary))
        fresh["embed.W_E"][digits] = digit_embeddings(spec, len(digits))
    return fresh


def digit_tokens(tokens: Tokens) -> list[int]:
    """The tokens that are digits, in the order of the alphabet."""
    return [token for token, kind in enumerate(tokens.classes) if kind == "digit"]


def digit_embeddings(spec: RunSpec, count: int) -> Float[Tensor, "digit d_model"]:
    """The embeddings that so many digits begin with where `digits` says which: in directions drawn by the run's seed.

    Raises SpecError when the model has too few dimensions for them.
    """
    model = spec.model
    axes = count if model.digits == "orthogonal" else 2
    if model.d_model < axes:
        raise SpecError(f"{count} digits, {model.digits}, take a d_model of at least {axes}; it is {model.d_model}")
    drawn = np.random.default_rng([5, spec.seed]).standard_normal((model.d_model, axes))
    rows = np.linalg.qr(drawn)[0].T
    if model.digits == "circle":
        angles = 2 * np.pi * np.arange(count) / count
        rows = np.stack([np.cos(angles), np.sin(angles)], axis=1) @ rows
    return torch.from_numpy(rows * model.init_std * math.sqrt(model.d_model)).float()


def provenance(device: torch.device) -> dict[str, Any]:
    """What produced a result: versions, device, threads."""
    return {
        "kc_interp": kc_interp.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine(),
        "threads": torch.get_num_threads(),
    }


@contextlib.contextmanager
def _deferred_interrupt() -> Iterator[Callable[[], bool]]:
    """Let the step at hand finish when Ctrl-C comes: an update is whole or has not begun. A second one acts at once."""
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    asked = False

    def ask(signum: int, frame: FrameType | None) -> None:
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True

    before = signal.signal(signal.SIGINT, ask)
    try:
        yield lambda: asked
    finally:
        signal.signal(signal.SIGINT, before)


def train(
    specs: Sequence[RunSpec],
    *,
    folders: Sequence[Path] | None = None,
    state_path: Path | None = None,
    device: torch.device | str = "cpu",
    resume: bool = False,
    on_progress: Callable[[Progress], None] = lambda progress: None,
    cache: dict[Any, Any] | None = None,
) -> list[Checkpoint]:
    """Train the runs together and return their checkpoints.

    With `folders` (one a run) each gets `checkpoints/step_….safetensors` along the way and `model.safetensors` at the
    end; with `state_path` everything needed to go on is kept there, replaced whole at every checkpoint and when
    interrupted. `resume` continues from it if it exists. Raises SpecError, DataError and CheckpointError before the
    first step; on KeyboardInterrupt the state is written first. `cache`: see `Ensemble`.
    """
    if folders and len(folders) != len(specs):
        raise SpecError(f"{len(folders)} folders for {len(specs)} runs; give one for each")
    tune_for_training()
    ensemble = Ensemble(specs, device, cache=cache)
    if resume and state_path is not None and state_path.exists():
        ensemble.restore(state_path)
    _go_on(ensemble, ensemble.steps, state_path, on_progress, folders)
    finished = ensemble.checkpoints()
    _keep(ensemble, state_path)
    for folder, one in zip(folders, finished, strict=True) if folders else ():
        one.save(folder / checkpoint.FILE_NAME)
    return finished


def _keep(ensemble: Ensemble, state_path: Path | None) -> None:
    if state_path is not None:
        write_atomically(state_path, ensemble.state())


def _go_on(
    ensemble: Ensemble,
    until: int,
    state_path: Path | None,
    on_progress: Callable[[Progress], None],
    folders: Sequence[Path] | None = None,
) -> None:
    """Train up to a step; along the way keep the state, add to the learning curves, and report."""
    began, first, before = time.perf_counter(), ensemble.done, ensemble.seconds
    plan = ensemble.members[0].spec.train
    with _deferred_interrupt() as interrupted:
        while ensemble.done < until and not ensemble.over:
            losses = ensemble.step()
            ensemble.record_if_due()
            ensemble.seconds = before + time.perf_counter() - began
            if ensemble.done % 20 == 0 or ensemble.done == until or ensemble.over:
                accuracy = [run["mixture"] for run in ensemble.curve[-1]["accuracy"]] if ensemble.curve else None
                examples = (ensemble.done - first) * len(ensemble.members) * plan.batch_size
                rate = examples / (ensemble.seconds - before)
                on_progress(Progress(ensemble.done, plan.steps, losses.tolist(), accuracy, rate))
            if ensemble.done % plan.checkpoint_every == 0 and ensemble.done < until:
                for folder, one in zip(folders, ensemble.checkpoints(), strict=True) if folders else ():
                    one.save(folder / "checkpoints" / f"step_{ensemble.done:07d}.safetensors")
                _keep(ensemble, state_path)
            if interrupted():
                _keep(ensemble, state_path)
                raise KeyboardInterrupt


def train_budgets(
    specs: Sequence[RunSpec],
    budgets: Sequence[int],
    state_path: Path,
    *,
    device: torch.device | str = "cpu",
    on_progress: Callable[[Progress], None] = lambda progress: None,
) -> dict[int, list[Checkpoint]]:
    """Train the runs for several numbers of steps at once: one trunk, and from it each budget's cool-down.

    The checkpoints by budget are those of `train` on the runs with that many steps. The trunk's state is kept at
    `state_path`, a branch's beside it (`branch_path`); both are gone on from where they are. Progress counts the steps
    made in all. Raises SpecError where the runs have no trunk in common, CheckpointError on states that do not fit.
    """
    if lacking := [spec.train for spec in specs if not spec.train.shares_trunk]:
        raise SpecError(
            f"schedule {lacking[0].schedule} with warmup {lacking[0].warmup}: budgets are trained at once only with "
            "schedule 'trunk' and a warm-up in steps (or none), e.g. warmup = 100"
        )
    if any(spec.train.stop_after for spec in specs):
        raise SpecError(
            "stop_after with several budgets on one trunk: a run that stopped would have no trunk to branch from; "
            "leave out stop_after, or train each budget by itself"
        )
    tune_for_training()
    ordered = sorted(set(budgets))
    cache: dict[Any, Any] = {}
    trunk: Ensemble | None = None
    found: dict[int, list[Checkpoint]] = {}
    earlier = 0
    total = sum(steps - with_steps(specs[0], steps).train.trunk_steps for steps in ordered)
    total += with_steps(specs[0], ordered[-1]).train.trunk_steps

    def show(progress: Progress) -> None:
        on_progress(dataclasses.replace(progress, step=earlier + progress.step, steps=total))

    for steps in ordered:
        theirs, path = [with_steps(spec, steps) for spec in specs], branch_path(state_path, steps)
        if not path.exists():
            if trunk is None:
                longest = [with_steps(spec, ordered[-1]) for spec in specs]
                trunk = Ensemble(longest, device, budgets=ordered, cache=cache)
                if state_path.exists():
                    trunk.restore(state_path)
            _go_on(trunk, theirs[0].train.trunk_steps, state_path, show)
            write_atomically(path, trunk.branch(steps))
            _keep(trunk, state_path)
        branch = Ensemble(theirs, device, cache=cache)
        branch.restore(path)
        _go_on(branch, steps, path, show)
        found[steps] = branch.checkpoints()
        _keep(branch, path)
        earlier += steps - theirs[0].train.trunk_steps
    return found


def branch_path(state_path: Path, steps: int) -> Path:
    """Where the state of a budget's branch is kept."""
    return state_path.with_suffix(f".{steps}{state_path.suffix}")
