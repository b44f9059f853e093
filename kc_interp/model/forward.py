"""The one functional definition of the transformer, over stacked HookedTransformer parameters.

Every activation has a leading `run` axis: a run is other weights (an ensemble), or the same weights under another
intervention. Parameters whose run axis is 1 serve any number of items in the batch. Activations that TransformerLens
names are named here likewise; `Sites` records them or edits them as they pass. Equality with HookedTransformer 3.9 is
tested for logits, every cached activation, gradients and training.

Positions may be computed from the middle: with `past` (keys and values of the positions before), only the positions
given are computed, which is what decoding and patching need.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor

from kc_interp.spec import ModelSpec

LAYER_NORM_EPS = 1e-5

Edit = Callable[[Tensor], Tensor]
Past = Mapping[int, tuple[Tensor, Tensor]]
"""Block index -> its keys and values at the positions before, each `run batch past head d_head`."""


@dataclass
class Sites:
    """What to record and what to change, by TransformerLens hook name.

    `record` None records everything. An edit receives the activation (`run batch pos …`) and returns its replacement;
    the record holds the replacement. Recorded tensors are the live ones: detach them to keep them.
    """

    record: Collection[str] | None = ()
    edits: Mapping[str, Edit] = field(default_factory=dict)
    cache: dict[str, Tensor] = field(default_factory=dict)

    def wants(self, *names: str) -> bool:
        return self.record is None or any(name in self.record or name in self.edits for name in names)

    def __call__(self, name: str, value: Tensor) -> Tensor:
        if name in self.edits:
            value = self.edits[name](value)
        if self.record is None or name in self.record:
            self.cache[name] = value
        return value


def forward(
    params: Mapping[str, Tensor],
    spec: ModelSpec,
    tokens: Int[Tensor, "run batch pos"],
    *,
    sites: Sites | None = None,
) -> Float[Tensor, "run batch pos d_vocab"]:
    """Logits at every position."""
    sites = sites or Sites()
    resid = embed(params, tokens, sites=sites)
    return unembed(params, spec, blocks(params, spec, resid, sites=sites), sites=sites)


def embed(
    params: Mapping[str, Tensor],
    tokens: Int[Tensor, "run batch pos"],
    *,
    offset: int = 0,
    sites: Sites | None = None,
) -> Float[Tensor, "run batch pos d_model"]:
    """Token plus position embedding; the first column of `tokens` stands at position `offset`."""
    sites = sites or Sites()
    table, positions = params["embed.W_E"], params["pos_embed.W_pos"]
    run, batch, pos = tokens.shape
    if table.shape[0] == 1:
        token_part = F.embedding(tokens, table[0])
    else:
        # One lookup in the tables laid end to end: to index by run as well is several times slower to differentiate.
        shift = torch.arange(run, device=tokens.device)[:, None, None] * table.shape[1]
        token_part = F.embedding(tokens + shift, rearrange(table, "run d_vocab d_model -> (run d_vocab) d_model"))
    token_part = sites("hook_embed", token_part)
    position_part = positions[:, None, offset : offset + pos]
    if sites.wants("hook_pos_embed"):
        position_part = sites("hook_pos_embed", position_part.expand(run, batch, -1, -1))
    return token_part + position_part


def blocks(
    params: Mapping[str, Tensor],
    spec: ModelSpec,
    resid: Float[Tensor, "run batch pos d_model"],
    *,
    first: int = 0,
    past: Past | None = None,
    answer_only: bool = False,
    sites: Sites | None = None,
) -> Float[Tensor, "run batch query d_model"]:
    """The residual stream after the last block, from the stream `resid` that enters block `first`.

    With `past`, `resid` holds the positions after those in it. With `answer_only` the last block computes its queries
    for the last position alone (query = 1): all that the logits at that position need.
    """
    sites = sites or Sites()
    for index in range(first, spec.depth):
        queries = 1 if answer_only and index == spec.depth - 1 else resid.shape[2]
        resid = block(params, spec, resid, index, past=past[index] if past else None, queries=queries, sites=sites)
    return resid


def block(
    params: Mapping[str, Tensor],
    spec: ModelSpec,
    resid: Float[Tensor, "run batch pos d_model"],
    index: int,
    *,
    past: tuple[Tensor, Tensor] | None,
    queries: int,
    sites: Sites,
) -> Float[Tensor, "run batch query d_model"]:
    """Block `index` of the unrolled stack, for the last `queries` positions; sites are named by the unrolled index."""
    weights = f"blocks.{index % spec.n_layers}."
    name = f"blocks.{index}."
    resid = sites(name + "hook_resid_pre", resid)
    attn_out = _attention(params, spec, resid, weights, name, past, queries, sites)
    attn_out = sites(name + "hook_attn_out", attn_out)
    mid = sites(name + "hook_resid_mid", resid[:, :, resid.shape[2] - queries :] + attn_out)
    return sites(name + "hook_resid_post", mlp(params, spec, mid, index, sites=sites))


def mlp(
    params: Mapping[str, Tensor],
    spec: ModelSpec,
    mid: Float[Tensor, "run batch pos d_model"],
    index: int,
    *,
    sites: Sites | None = None,
) -> Float[Tensor, "run batch pos d_model"]:
    """The residual stream `mid` between attention and MLP of block `index`, plus what the MLP writes."""
    sites = sites or Sites()
    weights, name = f"blocks.{index % spec.n_layers}.", f"blocks.{index}."
    w_in, b_in = params[weights + "mlp.W_in"], params[weights + "mlp.b_in"]
    pre = sites(name + "mlp.hook_pre", _read(params, spec, mid, weights + "ln2", w_in, b_in, name + "ln2", sites))
    post = sites(name + "mlp.hook_post", F.relu(pre) if spec.act == "relu" else F.gelu(pre))
    out = _affine(post, params[weights + "mlp.W_out"], params[weights + "mlp.b_out"])
    return mid + sites(name + "hook_mlp_out", out)


def unembed(
    params: Mapping[str, Tensor],
    spec: ModelSpec,
    resid: Float[Tensor, "run batch pos d_model"],
    *,
    sites: Sites | None = None,
) -> Float[Tensor, "run batch pos d_vocab"]:
    """Final LayerNorm (if the model has one) and unembedding."""
    sites = sites or Sites()
    weight, bias = params["unembed.W_U"], params["unembed.b_U"]
    if not sites.wants("unembed.hook_in"):
        return sites("unembed.hook_out", _read(params, spec, resid, "ln_final", weight, bias, "ln_final", sites))
    if spec.norm == "LN":
        gain, shift = params["ln_final.w"][:, None, None], params["ln_final.b"][:, None, None]
        resid = _normalise(resid, "ln_final", sites) * gain + shift
    return sites("unembed.hook_out", _affine(sites("unembed.hook_in", resid), weight, bias))


def _affine(
    x: Float[Tensor, "run batch pos d_in"],
    weight: Float[Tensor, "run_w d_in d_out"],
    bias: Float[Tensor, "run_w d_out"],
) -> Float[Tensor, "run batch pos d_out"]:
    """x W + b for every run, as one fused batched product."""
    batch = x.shape[1]
    if weight.shape[0] == 1:
        return F.linear(x, weight[0].mT, bias[0])
    flat = rearrange(x, "run batch pos d_in -> run (batch pos) d_in")
    return rearrange(
        torch.baddbmm(bias[:, None], flat, weight), "run (batch pos) d_out -> run batch pos d_out", batch=batch
    )


def _read(
    params: Mapping[str, Tensor],
    spec: ModelSpec,
    resid: Float[Tensor, "run batch pos d_model"],
    norm: str,
    weight: Float[Tensor, "run_w d_model d_out"],
    bias: Float[Tensor, "run_w d_out"],
    name: str,
    sites: Sites,
) -> Float[Tensor, "run batch pos d_out"]:
    """What a component reads from the residual stream: LayerNorm (if the model has one), then weight and bias.

    The LayerNorm's gain and bias are folded into the weight: the same function with one pass less over the
    activations, forwards and backwards. TransformerLens's `hook_normalized` is the value before gain and bias.
    """
    if spec.norm == "none":
        return _affine(resid, weight, bias)
    gain, shift = params[norm + ".w"], params[norm + ".b"]
    return _affine(_normalise(resid, name, sites), gain[..., None] * weight, bias + (shift[:, None] @ weight)[:, 0])


def _normalise(
    resid: Float[Tensor, "run batch pos d_model"], name: str, sites: Sites
) -> Float[Tensor, "run batch pos d_model"]:
    """To mean 0 and variance 1 over d_model, with the two sites that TransformerLens has there."""
    if not sites.wants(name + ".hook_scale", name + ".hook_normalized"):
        return F.layer_norm(resid, resid.shape[-1:], eps=LAYER_NORM_EPS)
    centred = resid - resid.mean(-1, keepdim=True)
    scale = sites(name + ".hook_scale", (centred.pow(2).mean(-1, keepdim=True) + LAYER_NORM_EPS).sqrt())
    return sites(name + ".hook_normalized", centred / scale)


def _attention(
    params: Mapping[str, Tensor],
    spec: ModelSpec,
    resid: Float[Tensor, "run batch pos d_model"],
    weights: str,
    name: str,
    past: tuple[Tensor, Tensor] | None,
    queries: int,
    sites: Sites,
) -> Float[Tensor, "run batch query d_model"]:
    """What attention writes at the last `queries` positions, looking at all given and past ones."""
    weight = torch.stack([params[weights + f"attn.W_{part}"] for part in "QKV"], dim=1)
    bias = torch.stack([params[weights + f"attn.b_{part}"] for part in "QKV"], dim=1)
    joint = _read(
        params,
        spec,
        resid,
        weights + "ln1",
        rearrange(weight, "run qkv head d_model d_head -> run d_model (qkv head d_head)"),
        rearrange(bias, "run qkv head d_head -> run (qkv head d_head)"),
        name + "ln1",
        sites,
    )
    q, k, v = rearrange(
        joint, "run batch pos (qkv head d_head) -> qkv run batch pos head d_head", qkv=3, head=spec.n_heads
    )
    name = name + "attn."
    q = sites(name + "hook_q", q[:, :, resid.shape[2] - queries :])
    k, v = sites(name + "hook_k", k), sites(name + "hook_v", v)
    if past is not None:
        k, v = (
            torch.cat([before.expand(*now.shape[:2], -1, -1, -1), now], dim=2)
            for before, now in zip(past, (k, v), strict=True)
        )
    # Written out: at these sizes twice as fast on a CPU, forwards and backwards, as torch's fused attention.
    q, k, v = (rearrange(part, "run batch pos head d_head -> run batch head pos d_head") for part in (q, k, v))
    future = torch.full((q.shape[3], k.shape[3]), -math.inf, dtype=q.dtype, device=q.device)
    scores = (q / math.sqrt(spec.head_size)) @ k.mT + future.triu(k.shape[3] - q.shape[3] + 1)
    pattern = sites(name + "hook_pattern", sites(name + "hook_attn_scores", scores).softmax(-1))
    z = rearrange(pattern @ v, "run batch head pos d_head -> run batch pos head d_head")
    z = rearrange(sites(name + "hook_z", z), "run batch pos head d_head -> run batch pos (head d_head)")
    w_o = rearrange(params[weights + "attn.W_O"], "run head d_head d_model -> run (head d_head) d_model")
    return _affine(z, w_o, params[weights + "attn.b_O"])
