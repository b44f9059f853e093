"""A fixed sample of a model's task, run once: where each neuron is most active, and what digits look like inside.

Chains are drawn from the task by a fixed seed, whether trained on or not, and run teacher-forced and untouched. Only
what the views show is kept, so that an MLP may have any size.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int

from kc_interp.errors import ProbeError
from kc_interp.explorer.thinking import Thinker
from kc_interp.model.forward import Sites, forward
from kc_interp.tasks.task import Chains

CHAINS = 512
BEST = 8

_SEED = 0
_CHAINS_A_CALL = 64


@dataclass(frozen=True)
class Sample:
    """Of every neuron the chains in which it is most active, each at its most active position, the highest first.

    `active` is the share of positions at which it is above 0. `digits` is the mean residual stream after each block
    where a question shows a digit, in the order of `digit_tokens`; NaN for a digit that no question shows.
    """

    chains: Chains
    chain: Int[np.ndarray, "best layer d_mlp"]
    position: Int[np.ndarray, "best layer d_mlp"]
    activation: Float[np.ndarray, "best layer d_mlp"]
    active: Float[np.ndarray, "layer d_mlp"]
    digits: Float[np.ndarray, "layer digit d_model"]


def sample(thinker: Thinker) -> Sample:
    """The model's sample, run the first time that it is asked for. Raises ProbeError when nothing can be drawn."""
    return thinker.kept(("sample", CHAINS, _SEED), lambda: _sampled(thinker))


def digit_tokens(thinker: Thinker) -> list[int]:
    """The tokens that are digits, by rising value (in the vocabulary's order where they are no whole numbers)."""
    tokens = thinker.checkpoint.tokens
    found = [token for token, kind in enumerate(tokens.classes) if kind == "digit"]
    if all(tokens.symbols[token].isdecimal() for token in found):
        found.sort(key=lambda token: int(tokens.symbols[token]))
    return found


def _drawn(thinker: Thinker) -> Chains:
    checkpoint = thinker.checkpoint
    drawn = checkpoint.task.sample(CHAINS, np.random.default_rng([_SEED, CHAINS]))
    fits = checkpoint.tokens.knows(drawn) & (drawn.lengths - 1 <= checkpoint.n_ctx)
    rows = np.flatnonzero(fits)
    if not len(rows):
        raise ProbeError(f"none of {CHAINS} chains drawn from its task fits {thinker.name}, so there are no examples")
    _, first = np.unique(drawn.symbols[rows], axis=0, return_index=True)
    return drawn.take(rows[np.sort(first)])


@torch.no_grad()
def _sampled(thinker: Thinker) -> Sample:
    checkpoint, depth, chains = thinker.checkpoint, thinker.graph.depth, _drawn(thinker)
    digits = torch.tensor(digit_tokens(thinker), device=checkpoint.device)
    highest, where = [], []
    above = torch.zeros((depth, thinker.d_mlp), device=checkpoint.device)
    sums = torch.zeros(
        (depth, len(digits), checkpoint.spec.model.d_model), dtype=torch.double, device=checkpoint.device
    )
    counts = torch.zeros(len(digits), dtype=torch.double, device=checkpoint.device)
    for rows in np.array_split(np.arange(len(chains)), -(-len(chains) // _CHAINS_A_CALL)):
        part = chains.take(rows)
        ids = torch.from_numpy(checkpoint.tokens.encode(part.symbols))[:, :-1].to(checkpoint.device)
        place = torch.arange(ids.shape[1], device=ids.device)
        lengths, prompts = (torch.from_numpy(of).to(ids.device)[:, None] for of in (part.lengths, part.prompts))
        read = place < lengths - 1
        names = [f"blocks.{block}.{site}" for block in range(depth) for site in ("mlp.hook_post", "hook_resid_post")]
        sites = Sites(record=names)
        forward(thinker.params, checkpoint.spec.model, ids[None], sites=sites)
        post = torch.stack([sites.cache[name][0] for name in names[::2]], dim=1)
        above += ((post > 0) & read[:, None, :, None]).sum((0, 2))
        best = post.masked_fill(~read[:, None, :, None], -torch.inf).max(2)
        highest.append(best.values)
        where.append(best.indices)
        shown = ((ids[..., None] == digits) & (place < prompts)[..., None]).double()
        for block, name in enumerate(names[1::2]):
            sums[block] += torch.einsum("bpd,bpn->nd", sites.cache[name][0].double(), shown)
        counts += shown.sum((0, 1))
    top = torch.cat(highest).topk(min(BEST, len(chains)), dim=0)
    return Sample(
        chains,
        top.indices.cpu().numpy(),
        torch.cat(where).gather(0, top.indices).cpu().numpy(),
        top.values.double().cpu().numpy(),
        (above.double().cpu().numpy() / (chains.lengths - 1).sum()),
        (sums / counts[:, None]).cpu().numpy(),
    )
