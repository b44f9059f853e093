"""A trained model as one self-describing safetensors file.

The metadata is one canonical JSON string under the key `kc_interp` (several keys would make the bytes vary between
processes) with a schema version: settings, vocabulary, training facts, metrics, provenance. Everything is checked
against the file's header before a tensor is allocated, and nothing is ever unpickled.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import safetensors
import safetensors.torch
import torch
from jaxtyping import Int
from torch import Tensor

from kc_interp import plugins
from kc_interp.errors import CheckpointError, DataError, KCInterpError, SpecError
from kc_interp.files import write_atomically
from kc_interp.finding import to_plain
from kc_interp.model import parameters
from kc_interp.spec import RunSpec, from_plain
from kc_interp.tasks.task import Task
from kc_interp.tokens import Tokens

if TYPE_CHECKING:
    from transformer_lens import HookedTransformer

SCHEMA = 1
KEY = "kc_interp"
FILE_NAME = "model.safetensors"


@dataclass(frozen=True)
class Checkpoint:
    """One run's parameters (HookedTransformer's names and shapes, no `run` axis) and everything that describes them.

    `training` holds facts such as steps done and the learning curve; `metrics` what evaluation found (may be empty).
    """

    spec: RunSpec
    params: Mapping[str, Tensor]
    training: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, Any] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)
    path: Path | None = None

    @cached_property
    def task(self) -> Task:
        return plugins.make_task(self.spec.task)

    @cached_property
    def tokens(self) -> Tokens:
        return Tokens.of(self.task, self.spec.data.vocabulary)

    @cached_property
    def stacked(self) -> Mapping[str, Tensor]:
        """The parameters with a leading `run` axis of one, for `kc_interp.model.forward`."""
        return parameters.stack([self.params])

    @property
    def device(self) -> torch.device:
        return self.params["embed.W_E"].device

    @property
    def n_ctx(self) -> int:
        """The number of positions the model has."""
        return self.params["pos_embed.W_pos"].shape[0]

    @property
    def parameter_count(self) -> int:
        """Trainable parameters, a tied block once."""
        return parameters.count(self.spec.model, d_vocab=len(self.tokens), n_ctx=self.n_ctx)

    def to(self, device: torch.device) -> Checkpoint:
        """The same checkpoint on another device."""
        return self._replace(params={name: value.to(device) for name, value in self.params.items()})

    def with_metrics(self, metrics: Mapping[str, Any]) -> Checkpoint:
        """The same checkpoint with what evaluation found."""
        return self._replace(metrics=dict(metrics))

    def _replace(self, **changes: Any) -> Checkpoint:
        fields = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return Checkpoint(**{**fields, **changes})

    def encode(self, text: str) -> Int[Tensor, "1 pos"]:
        """A question as a person types it, `[SUM 1 [MAX 4 3]]`, in this model's tokens.

        Raises ExpressionError where it does not parse, DataError on a symbol that the vocabulary lacks or when the
        question leaves no room in the context for an answer.
        """
        chains = self.task.parse(text)
        asked = int(chains.prompts[0])
        if asked >= self.n_ctx:
            raise DataError(f"the question has {asked} symbols, this model reads {self.n_ctx} with its answer")
        return torch.from_numpy(self.tokens.encode(chains.symbols[:, :asked])).to(self.device)

    def hooked(self) -> HookedTransformer:
        """A `transformer_lens.HookedTransformer` with these weights (imports transformer_lens: some seconds)."""
        from kc_interp.model.lens import hooked

        return hooked(self.params, self.spec.model)

    def _repr_mimebundle_(self, **_asked: Any) -> dict[str, str]:
        """How it shows itself in a notebook: its settings and what it learned, no weight."""
        from kc_interp import notebook

        return notebook.bundle(self)

    def save(self, path: Path) -> Path:
        """Write the file, whole or not at all; the same content gives the same bytes."""
        described = {
            "schema": SCHEMA,
            "kind": "checkpoint",
            "spec": self.spec,
            "symbols": list(self.tokens.symbols),
            "training": self.training,
            "metrics": self.metrics,
            "provenance": self.provenance,
        }
        return write_atomically(path, pack(self.params, described))


def context_length(spec: RunSpec, task: Task) -> int:
    """The positions a model of this run has. Raises SpecError when they are too few for what it must read."""
    needed = task.max_length if spec.train.batches == "bucketed" else max(task.max_length, spec.train.crop)
    if spec.model.n_ctx is None:
        return needed
    if spec.model.n_ctx < needed:
        raise SpecError(
            f"n_ctx is {spec.model.n_ctx}, but the longest sequence of this task has {needed} tokens; "
            "raise n_ctx, or lower depth or max_operands"
        )
    return spec.model.n_ctx


def load(path: str | Path, *, device: torch.device | str = "cpu") -> Checkpoint:
    """Open a checkpoint: a `.safetensors` file, or the run directory that holds `model.safetensors`.

    Raises CheckpointError with path and reason when it is missing, cut short, of another kind or schema, or of the
    wrong shape; nothing is allocated before these checks have passed.
    """
    path = Path(path)
    if path.is_dir():
        if not (path / FILE_NAME).is_file():
            raise CheckpointError(f"{path}: the folder holds no {FILE_NAME}; is the run finished? (train --resume)")
        path = path / FILE_NAME
    described, found = peek(path, kind="checkpoint")
    try:
        spec = from_plain(RunSpec, described["spec"], where="spec")
        task = plugins.make_task(spec.task)
        tokens = Tokens.of(task, spec.data.vocabulary)
        wanted = parameters.shapes(spec.model, d_vocab=len(tokens), n_ctx=context_length(spec, task))
    except KeyError as error:
        raise CheckpointError(f"{path}: its description lacks {error}") from error
    except KCInterpError as error:
        raise CheckpointError(f"{path}: {error}") from error
    if list(tokens.symbols) != described.get("symbols"):
        raise CheckpointError(f"{path}: its symbols {described.get('symbols')} are not those of its task here")
    for name in sorted(wanted.keys() | found.keys()):
        if wanted.get(name) != found.get(name):
            raise CheckpointError(
                f"{path}: tensor {name!r} has shape {found.get(name, 'none: it is missing')}, "
                f"its settings call for {wanted.get(name, 'no such tensor')}"
            )
    return Checkpoint(
        spec,
        safetensors.torch.load_file(path, device=str(device)),
        described.get("training", {}),
        described.get("metrics", {}),
        described.get("provenance", {}),
        path,
    )


def pack(tensors: Mapping[str, Tensor], described: Mapping[str, Any]) -> bytes:
    """A safetensors file's bytes with one canonical JSON string as its metadata.

    What is not finite (the loss of a run that diverged) becomes null: JSON has no NaN.
    """
    text = json.dumps(to_plain(described), sort_keys=True, separators=(",", ":"), allow_nan=False)
    return safetensors.torch.save(
        {name: value.detach().cpu().contiguous() for name, value in tensors.items()}, {KEY: text}
    )


def peek(path: Path, *, kind: str) -> tuple[dict[str, Any], dict[str, tuple[int, ...]]]:
    """What a file of ours says of itself, and the shape of every tensor, from its header alone.

    Raises CheckpointError as `load` does.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file; expected a .safetensors checkpoint or a run directory")
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            found = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except (safetensors.SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{path}: not a whole safetensors file ({error})") from error
    if KEY not in metadata:
        raise CheckpointError(f"{path}: a safetensors file, but not one that kc-interp wrote (no {KEY!r} metadata)")
    try:
        described = json.loads(metadata[KEY])
        schema, its_kind = described["schema"], described["kind"]
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path}: its {KEY!r} metadata does not read as a description ({error})") from error
    if schema != SCHEMA:
        raise CheckpointError(
            f"{path}: written with schema {schema}, this version reads schema {SCHEMA}; "
            "open it with the kc-interp that wrote it, or a newer one"
        )
    if its_kind != kind:
        raise CheckpointError(f"{path}: a {its_kind!r} file, expected a {kind!r}")
    return described, found
