"""HookedTransformer's parameters as a plain dict of tensors: names, shapes, initialisation, count.

A tied block is held once: with `n_layers` 1 and `repeat` 5 there is only `blocks.0`. Stacked along a leading `run` axis
the same dicts describe an ensemble.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from kc_interp.spec import ModelSpec

Parameters = dict[str, Tensor]

_QKV_BIASES = ("attn.b_Q", "attn.b_K", "attn.b_V")
_INTO_RESIDUAL = ("attn.W_O", "mlp.W_out")


def shapes(spec: ModelSpec, *, d_vocab: int, n_ctx: int) -> dict[str, tuple[int, ...]]:
    """The shape of every parameter, by HookedTransformer's names, in a fixed order."""
    d, heads, d_head, d_mlp = spec.d_model, spec.n_heads, spec.head_size, spec.mlp_size
    norm = {"w": (d,), "b": (d,)} if spec.norm == "LN" else {}
    table: dict[str, tuple[int, ...]] = {"embed.W_E": (d_vocab, d), "pos_embed.W_pos": (n_ctx, d)}
    for layer in range(spec.n_layers):
        block = {
            **{f"ln1.{key}": shape for key, shape in norm.items()},
            "attn.W_Q": (heads, d, d_head),
            "attn.W_K": (heads, d, d_head),
            "attn.W_V": (heads, d, d_head),
            "attn.W_O": (heads, d_head, d),
            "attn.b_Q": (heads, d_head),
            "attn.b_K": (heads, d_head),
            "attn.b_V": (heads, d_head),
            "attn.b_O": (d,),
            **{f"ln2.{key}": shape for key, shape in norm.items()},
            "mlp.W_in": (d, d_mlp),
            "mlp.b_in": (d_mlp,),
            "mlp.W_out": (d_mlp, d),
            "mlp.b_out": (d,),
        }
        table |= {f"blocks.{layer}.{key}": shape for key, shape in block.items()}
    table |= {f"ln_final.{key}": shape for key, shape in norm.items()}
    return table | {"unembed.W_U": (d, d_vocab), "unembed.b_U": (d_vocab,)}


def is_frozen(name: str, spec: ModelSpec) -> bool:
    """Whether this parameter stays at its initial zero: the q, k and v biases, when the settings freeze them."""
    return not spec.qkv_bias and name.endswith(_QKV_BIASES)


def count(spec: ModelSpec, *, d_vocab: int, n_ctx: int, embedding: bool = True) -> int:
    """Trainable parameters; with `embedding` False without the token and position tables and the unembedding.

    The paper's shape (one block tied five times, biases frozen, 20 tokens, 128 positions) has 12 d² + 180 d + 20.
    """
    tables = ("embed.", "pos_embed.", "unembed.")
    return sum(
        math.prod(shape)
        for name, shape in shapes(spec, d_vocab=d_vocab, n_ctx=n_ctx).items()
        if not is_frozen(name, spec) and (embedding or not name.startswith(tables))
    )


def initialise(spec: ModelSpec, generator: torch.Generator, *, d_vocab: int, n_ctx: int) -> Parameters:
    """Fresh float32 parameters on the CPU: weight matrices N(0, spec.init_std²), biases 0, LayerNorm weights 1."""
    params: Parameters = {}
    for name, shape in shapes(spec, d_vocab=d_vocab, n_ctx=n_ctx).items():
        if ".W_" in name:
            shrink = 1 / math.sqrt(2 * spec.depth) if spec.scale_residual and name.endswith(_INTO_RESIDUAL) else 1.0
            params[name] = torch.randn(shape, generator=generator) * (spec.init_std * shrink)
        else:
            params[name] = torch.ones(shape) if name.endswith(".w") else torch.zeros(shape)
    return params


def unrolled(params: Mapping[str, Tensor], spec: ModelSpec) -> Parameters:
    """One run's parameters (no `run` axis) with every block that a token passes through under its own name.

    A tied block thus stands there `spec.repeat` times, each time as the same tensors.
    """
    table: Parameters = {}
    for name, value in params.items():
        if not name.startswith("blocks."):
            table[name] = value
            continue
        _, layer, rest = name.split(".", 2)
        table |= {f"blocks.{index}.{rest}": value for index in range(int(layer), spec.depth, spec.n_layers)}
    return table


def stack(members: Sequence[Mapping[str, Tensor]]) -> Parameters:
    """Parameters of several runs of one shape along a leading `run` axis."""
    return {name: torch.stack([member[name] for member in members]) for name in members[0]}


def member(params: Mapping[str, Tensor], run: int) -> Parameters:
    """One run's parameters, without the `run` axis, as contiguous copies."""
    return {name: value[run].clone() for name, value in params.items()}
