"""A checkpoint as a file for other tools: TransformerLens 4.x by its native names, or a HookedTransformer's state dict.

4.0 removed HookedTransformer; `TransformerBridge.boot_native` builds such models there, every matrix as `nn.Linear`
holds it. The file is safetensors; its metadata, one JSON string as in a checkpoint, has all that it takes to build the
model and to ask it. Both tools can express every shape that a `ModelSpec` has, so the logits there are the same.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from kc_interp.checkpoint import KEY, SCHEMA, Checkpoint, pack
from kc_interp.errors import SpecError, did_you_mean
from kc_interp.files import write_atomically
from kc_interp.model import lens
from kc_interp.model.parameters import Parameters, unrolled
from kc_interp.spec import ModelSpec

_NATIVE = {
    "W_E": ("weight", "d_vocab d_model -> d_vocab d_model"),
    "W_pos": ("weight", "pos d_model -> pos d_model"),
    "W_Q": ("q.weight", "head d_model d_head -> (head d_head) d_model"),
    "W_K": ("k.weight", "head d_model d_head -> (head d_head) d_model"),
    "W_V": ("v.weight", "head d_model d_head -> (head d_head) d_model"),
    "W_O": ("o.weight", "head d_head d_model -> d_model (head d_head)"),
    "b_Q": ("q.bias", "head d_head -> (head d_head)"),
    "b_K": ("k.bias", "head d_head -> (head d_head)"),
    "b_V": ("v.bias", "head d_head -> (head d_head)"),
    "b_O": ("o.bias", "d_model -> d_model"),
    "W_in": ("in.weight", "d_model d_mlp -> d_mlp d_model"),
    "b_in": ("in.bias", "d_mlp -> d_mlp"),
    "W_out": ("out.weight", "d_mlp d_model -> d_model d_mlp"),
    "b_out": ("out.bias", "d_model -> d_model"),
    "w": ("weight", "d_model -> d_model"),
    "b": ("bias", "d_model -> d_model"),
    "W_U": ("weight", "d_model d_vocab -> d_vocab d_model"),
    "b_U": ("bias", "d_vocab -> d_vocab"),
}
"""HookedTransformer's last word of a parameter's name -> that of TransformerLens 4.x, and how it is laid out there.

`blocks.0.attn.W_Q` is `blocks.0.attn.q.weight`. The same as `convert_tl_checkpoint`, which only 4.x has.
"""


def native(params: Mapping[str, Tensor], spec: ModelSpec) -> Parameters:
    """The state dict of a `TransformerBridge.boot_native` model, tied blocks unrolled."""
    state: Parameters = {}
    for name, value in unrolled(params, spec).items():
        place, leaf = name.rsplit(".", 1)
        new, layout = _NATIVE[leaf]
        state[f"{place}.{new}"] = rearrange(value, layout)
    return state


def hooked(params: Mapping[str, Tensor], spec: ModelSpec) -> Parameters:
    """The state dict of a HookedTransformer, tied blocks unrolled, with the two buffers that a strict load asks for.

    The mask is the whole one of versions before 3.9; 3.9 builds masks as it goes and takes any.
    """
    n_ctx = params["pos_embed.W_pos"].shape[0]
    buffers: Parameters = {}
    for index in range(spec.depth):
        buffers[f"blocks.{index}.attn.mask"] = torch.ones(n_ctx, n_ctx, dtype=torch.bool).tril()
        buffers[f"blocks.{index}.attn.IGNORE"] = torch.tensor(-torch.inf)
    return unrolled(params, spec) | buffers


@dataclass(frozen=True)
class Format:
    """A tool's file: what pip installs to open it, its state dict, and the Python that makes a model of `about`."""

    needs: str
    state: Callable[[Mapping[str, Tensor], ModelSpec], Parameters]
    imports: str
    model: str
    differs: tuple[str, ...] = ()


FORMATS: Mapping[str, Format] = {
    "transformer-lens-4": Format(
        "transformer-lens>=4,<5",
        native,
        "from transformer_lens.model_bridge import TransformerBridge",
        'TransformerBridge.boot_native(about["config"], dtype=state["embed.weight"].dtype)',
        ("the unembedding's bias is kept in a buffer there from 4.2 on: training it further leaves it as it is",),
    ),
    "transformer-lens-3": Format(
        "transformer-lens>=3,<4",
        hooked,
        "from transformer_lens import HookedTransformer",
        'HookedTransformer({**about["config"], "dtype": state["embed.W_E"].dtype})',
    ),
}

_PYTHON = """\
# {path}: {tensors} tensors, {symbols} symbols
# opens where this is installed: pip install "{needs}"
import json

import torch
from safetensors import safe_open
{imports}

with safe_open({quoted}, "pt") as file:
    about = json.loads(file.metadata()["{key}"])
    state = {{name: file.get_tensor(name) for name in file.keys()}}
model = {model}
model.load_state_dict(state)

tokens = torch.tensor([[about["symbols"].index(symbol) for symbol in {question}.split()]])
logits, cache = model.run_with_cache(tokens)
print(about["symbols"][logits[0, -1].argmax()])"""


@dataclass(frozen=True)
class Export:
    """A checkpoint in one tool's terms.

    `about` is what the file says of itself: among others `config`, which builds the empty model there, the `symbols` by
    token, the token that ends a chain, a `question` to try, and `notes` on what is not as it was here.
    """

    to: str
    state: Parameters
    about: Mapping[str, Any]

    @classmethod
    def of(cls, checkpoint: Checkpoint, to: str) -> Export:
        """Raises SpecError when there is no such format."""
        form, spec = format_of(to), checkpoint.spec.model
        about = {
            "schema": SCHEMA,
            "kind": to,
            "config": lens.config(checkpoint.params, spec),
            "symbols": list(checkpoint.tokens.symbols),
            "end": checkpoint.tokens.end,
            "question": _question(checkpoint),
            "notes": [*_notes(spec), *form.differs],
            "spec": checkpoint.spec,
            "provenance": checkpoint.provenance,
        }
        # Cloned: safetensors refuses tensors that share memory, as the repetitions of a tied block do.
        state = {name: value.contiguous().clone() for name, value in form.state(checkpoint.params, spec).items()}
        return cls(to, state, about)

    def save(self, path: Path) -> Path:
        """Write the file, whole or not at all; the same checkpoint gives the same bytes."""
        return write_atomically(path, pack(self.state, self.about))

    def python(self, path: Path) -> str:
        """The Python that opens the file saved at `path` and asks the model one question."""
        form = FORMATS[self.to]
        return _PYTHON.format(
            path=path.as_posix(),
            quoted=json.dumps(path.as_posix(), ensure_ascii=False),
            tensors=len(self.state),
            symbols=len(self.about["symbols"]),
            needs=form.needs,
            imports=form.imports,
            key=KEY,
            model=form.model,
            question=json.dumps(self.about["question"], ensure_ascii=False),
        )


def format_of(to: str) -> Format:
    """The format of this name. Raises SpecError with the nearest one."""
    if to not in FORMATS:
        raise SpecError(f"--to {to}: nothing is exported to that{did_you_mean(to, FORMATS)}")
    return FORMATS[to]


def _notes(spec: ModelSpec) -> list[str]:
    """What a state dict cannot say of this shape; it matters to further training alone."""
    notes = []
    if spec.repeat > 1:
        tied = "one block is" if spec.n_layers == 1 else f"{spec.n_layers} blocks are"
        notes.append(
            f"{tied} applied {spec.repeat} times here; the file holds {spec.depth} blocks that are no longer tied: "
            "training them further lets the copies differ"
        )
    if not spec.qkv_bias:
        notes.append("the q, k and v biases, frozen at zero here, are trained there")
    return notes


def _question(checkpoint: Checkpoint) -> str:
    """A short question of the model's task, its symbols with spaces between."""
    chains = checkpoint.task.sample(64, np.random.default_rng(0))
    row = chains.prompts.argmin()
    return " ".join(checkpoint.task.symbols[code] for code in chains.symbols[row, : chains.prompts[row]])
