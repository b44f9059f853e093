"""Exact activation patching: what the answer's logits become when one activation is replaced at one layer and position.

The result is that of running the whole model anew for every patch, as `transformer_lens.patching` does, but only what
can change is computed: a patch at block l and position p leaves earlier blocks and positions as they were; within its
block a component at position p acts on the residual stream at p alone; and of the last block only the answer's query
is needed. Patches are packed along the batch axis.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from einops import einsum, rearrange, repeat
from jaxtyping import Float, Int
from torch import Tensor

from kc_interp.model.forward import Sites, blocks, embed, mlp, unembed
from kc_interp.spec import ModelSpec

Site = Literal["resid_pre", "resid_mid", "attn_out", "mlp_out", "z"]
SITES: tuple[Site, ...] = ("resid_pre", "resid_mid", "attn_out", "mlp_out", "z")

_TOKENS_A_CALL = 16_384


@dataclass(frozen=True)
class Run:
    """One batch of equally long inputs run once, up to the position whose next token is the answer.

    `cache` holds the activations by TransformerLens name; `logits` are those of the answer (batch d_vocab).
    """

    params: Mapping[str, Tensor]
    spec: ModelSpec
    cache: Mapping[str, Tensor]
    logits: Float[Tensor, "batch d_vocab"]

    @classmethod
    @torch.no_grad()
    def of(cls, params: Mapping[str, Tensor], spec: ModelSpec, tokens: Int[Tensor, "batch pos"]) -> Run:
        """Run `tokens`, whose last position is the one that predicts the answer. `params` has a run axis of one."""
        parts = ("hook_resid_pre", "hook_resid_mid", "hook_attn_out", "hook_mlp_out")
        names = {f"blocks.{index}.{part}" for index in range(spec.depth) for part in parts}
        names |= {f"blocks.{index}.attn.hook_{part}" for index in range(spec.depth) for part in "kvz"}
        sites = Sites(record=names)
        resid = blocks(params, spec, embed(params, tokens[None]), sites=sites)
        sites.cache["resid_post"] = resid
        return cls(params, spec, sites.cache, unembed(params, spec, resid[:, :, -1:])[0, :, 0])

    @property
    def positions(self) -> int:
        return self.cache["resid_post"].shape[2]

    def entering(self, index: int) -> Float[Tensor, "batch pos d_model"]:
        """The residual stream that enters block `index`; with index = depth, what leaves the last block."""
        name = f"blocks.{index}.hook_resid_pre" if index < self.spec.depth else "resid_post"
        return self.cache[name][0]

    def at(self, index: int, site: Site) -> Tensor:
        """The activation at a site of block `index`, `batch pos …`."""
        inside = "attn.hook_z" if site == "z" else f"hook_{site}"
        return self.cache[f"blocks.{index}.{inside}"][0]


@torch.no_grad()
def patch(base: Run, source: Run, site: Site) -> Float[Tensor, "layer head pos batch d_vocab"]:
    """The answer's logits of `base` when `site` at each layer and position in turn is replaced by that of `source`.

    `head` is 1 except for the site "z", where each head is patched on its own. Denoising: base corrupted, source clean;
    noising: the reverse. The runs must have equal shapes.
    """
    spec, params = base.spec, base.params
    layers = []
    for index in range(spec.depth):
        if site == "resid_pre":
            first, changed = index, source.at(index, site)[None]
        else:
            first = index + 1
            changed = _resid_post(params, spec, base, source, index, site)
        changed = rearrange(changed, "head batch pos d_model -> pos head batch d_model")
        layers.append(rearrange(_answers(base, first, changed), "pos head batch d_vocab -> head pos batch d_vocab"))
    return torch.stack(layers)


def _resid_post(
    params: Mapping[str, Tensor], spec: ModelSpec, base: Run, source: Run, index: int, site: Site
) -> Float[Tensor, "head batch pos d_model"]:
    """What leaves block `index` at each position when `site` is replaced at that position alone."""
    mid = base.at(index, "resid_mid")[None]
    if site == "mlp_out":
        return mid + source.at(index, site)
    if site == "resid_mid":
        mid = source.at(index, site)[None]
    elif site == "attn_out":
        mid = base.entering(index)[None] + source.at(index, site)
    else:
        w_o = params[f"blocks.{index % spec.n_layers}.attn.W_O"][0]
        change = source.at(index, site) - base.at(index, site)
        mid = mid + einsum(change, w_o, "batch pos head d_head, head d_head d_model -> head batch pos d_model")
    flat = rearrange(mid, "head batch pos d_model -> 1 (head batch) pos d_model")
    return rearrange(
        mlp(params, spec, flat, index), "1 (head batch) pos d_model -> head batch pos d_model", head=len(mid)
    )


def _answers(
    base: Run, first: int, changed: Float[Tensor, "pos variant batch d_model"]
) -> Float[Tensor, "pos variant batch d_vocab"]:
    """The answer's logits when the stream entering block `first` is `changed` at one position in turn."""
    pos, variant, batch, _ = changed.shape
    logits = repeat(base.logits, "batch d_vocab -> pos variant batch d_vocab", pos=pos, variant=variant).clone()
    if first == base.spec.depth:
        # After the last block no position but the answer's reaches the answer.
        logits[-1] = unembed(base.params, base.spec, changed[-1][None])[0]
        return logits
    for low, high in _groups(pos, variant * batch):
        resid = repeat(
            base.entering(first)[:, low:], "batch pos d -> group variant batch pos d", group=high - low, variant=variant
        )
        resid = resid.clone()
        for place in range(low, high):
            resid[place - low, :, :, place - low] = changed[place]
        flat = rearrange(resid, "group variant batch pos d -> 1 (group variant batch) pos d")
        past = {index: _past(base, index, low, (high - low) * variant) for index in range(first, base.spec.depth)}
        after = blocks(base.params, base.spec, flat, first=first, past=past if low else None, answer_only=True)
        logits[low:high] = unembed(base.params, base.spec, after)[0, :, 0].view(high - low, variant, batch, -1)
    return logits


def _groups(pos: int, width: int) -> Iterator[tuple[int, int]]:
    """Runs of positions to patch in one call: many when few inputs are patched, else few, to start late."""
    low = 0
    while low < pos:
        high = min(pos, low + max(1, _TOKENS_A_CALL // (width * (pos - low))))
        yield low, high
        low = high


def _past(base: Run, index: int, low: int, copies: int) -> tuple[Tensor, Tensor]:
    """The untouched keys and values of block `index` before position `low`, for every packed patch."""
    keys, values = (base.cache[f"blocks.{index}.attn.hook_{part}"][:, :, :low] for part in "kv")
    pattern = "run batch pos head d_head -> run (copies batch) pos head d_head"
    return repeat(keys, pattern, copies=copies), repeat(values, pattern, copies=copies)
