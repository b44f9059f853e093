"""Models for the explorer's tests: untrained ones of each kind, and small trained ones for its pages."""

from __future__ import annotations

import functools

import torch

from kc_interp.checkpoint import Checkpoint, context_length
from kc_interp.model import parameters
from kc_interp.plugins import make_task
from kc_interp.spec import DataSpec, ModelSpec, RunSpec, TaskSpec
from kc_interp.tokens import Tokens

QUESTION, TWIN = "[SUM 1 [SUM 4 3] 2]", "[SUM 1 [SUM 4 5] 2]"

_KINDS = {
    "LN": {"norm": "LN", "act": "gelu", "n_layers": 2},
    "none": {"norm": "none", "act": "relu", "n_layers": 2},
    "tied": {"norm": "LN", "act": "gelu", "n_layers": 1, "repeat": 2},
}


@functools.cache
def model_of(kind: str = "LN", seed: int = 0, operations: tuple[str, ...] = ("SUM",)) -> Checkpoint:
    """An untrained model with two blocks of four heads, its weights and biases drawn so that every part matters."""
    spec = RunSpec(
        TaskSpec("listops", {"operations": operations, "depth": 2, "max_operands": 3}),
        DataSpec(),
        ModelSpec(d_model=16, n_heads=4, init="wide", **_KINDS[kind]),  # type: ignore[arg-type]
    )
    task = make_task(spec.task)
    generator = torch.Generator().manual_seed(seed)
    shape = {"d_vocab": len(Tokens.of(task, spec.data.vocabulary)), "n_ctx": context_length(spec, task)}
    params = parameters.initialise(spec.model, generator, **shape)
    params = {name: value + 0.1 * torch.randn(value.shape, generator=generator) for name, value in params.items()}
    return Checkpoint(spec, params)
