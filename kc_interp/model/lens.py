"""The bridge to TransformerLens 3.9: the only file that imports it.

A checkpoint opens as a `HookedTransformer` with these very weights; in a tied model the parameters are shared between
the unrolled blocks (sharing modules instead would leave only `blocks.0` in the cache).
"""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from jaxtyping import Float, Int
from torch import Tensor, nn

from kc_interp.errors import SpecError
from kc_interp.model import parameters
from kc_interp.spec import ModelSpec

if TYPE_CHECKING:
    from transformer_lens import ActivationCache, HookedTransformer


def config(params: Mapping[str, Tensor], spec: ModelSpec) -> dict[str, Any]:
    """The settings of a `HookedTransformerConfig`, and of a `TransformerBridgeConfig`, for this shape: plain data.

    Device and dtype are left out: they are the parameters' own.
    """
    return {
        "n_layers": spec.depth,
        "d_model": spec.d_model,
        "n_heads": spec.n_heads,
        "d_head": spec.head_size,
        "d_mlp": spec.mlp_size,
        "d_vocab": params["embed.W_E"].shape[0],
        "n_ctx": params["pos_embed.W_pos"].shape[0],
        "act_fn": spec.act,
        "normalization_type": "LN" if spec.norm == "LN" else None,
        "initializer_range": spec.init_std,
        "init_weights": False,
        "default_prepend_bos": False,
    }


def hooked(params: Mapping[str, Tensor], spec: ModelSpec) -> HookedTransformer:
    """A HookedTransformer that holds one run's parameters (no `run` axis), on their device and in their dtype.

    Raises SpecError when transformer-lens is not installed or has no HookedTransformer (4.0 removed it).
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            from transformer_lens import HookedTransformer, HookedTransformerConfig
    except ImportError as error:
        raise SpecError(
            "this needs transformer-lens 3.9 (4.0 removed HookedTransformer): "
            f"pip install 'transformer-lens>=3.9,<4' ({error})"
        ) from error
    table = params["embed.W_E"]
    settings = HookedTransformerConfig(**config(params, spec), device=str(table.device), dtype=table.dtype)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore", DeprecationWarning)
        model = HookedTransformer(settings)
    state = parameters.unrolled(params, spec)
    masks = {name: value for name, value in model.state_dict().items() if name.endswith((".mask", ".IGNORE"))}
    model.load_state_dict({**state, **masks})
    _tie(model, spec)
    return model


def _tie(model: HookedTransformer, spec: ModelSpec) -> None:
    """Let every repetition of a block use the first one's Parameter objects."""
    for index in range(spec.n_layers, spec.depth):
        source = dict(model.blocks[index % spec.n_layers].named_parameters())
        for name, parameter in source.items():
            owner: nn.Module = model.blocks[index]
            *path, leaf = name.split(".")
            for part in path:
                owner = getattr(owner, part)
            setattr(owner, leaf, parameter)


def replaced_by_hook(
    model: HookedTransformer,
    tokens: Int[Tensor, "batch pos"],
    own: ActivationCache,
    other: ActivationCache,
    edge: str,
) -> Float[Tensor, "batch d_vocab"]:
    """The last position's logits from one hooked forward in which one edge carries another run's writing.

    The plain way, against which `kc_interp.circuits.effects.edge_logits` is tested and timed. `own` and `other` are the
    caches of both runs; the model needs `use_attn_result`, `use_split_qkv_input` and `use_hook_mlp_in`. `edge` is named
    as in `kc_interp.model.graph`; its writer is the token embedding, a head or an MLP.
    """
    writer, reader = edge.split("->")
    change = _writing(other, writer) - _writing(own, writer)

    def add(value: Tensor, hook: object, head: int | None = None) -> Tensor:
        value = value.clone()
        if head is None:
            return value + change
        value[:, :, head] += change
        return value

    change_it: Callable[..., Tensor] = add
    if reader == "logits":
        name = f"blocks.{model.cfg.n_layers - 1}.hook_resid_post"
    elif reader.startswith("m"):
        name = f"blocks.{reader[1:]}.hook_mlp_in"
    else:
        place, part = reader[:-1].split("<")
        block, head = place[1:].split(".h")
        name, change_it = f"blocks.{block}.hook_{part}_input", partial(add, head=int(head))
    return model.run_with_hooks(tokens, fwd_hooks=[(name, change_it)])[:, -1]


def _writing(cache: ActivationCache, writer: str) -> Tensor:
    if writer == "token":
        return cache["hook_embed"]
    if writer.startswith("m"):
        return cache[f"blocks.{writer[1:]}.hook_mlp_out"]
    block, head = writer[1:].split(".h")
    return cache[f"blocks.{block}.attn.hook_result"][:, :, int(head)]
