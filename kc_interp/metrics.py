"""What "accuracy" can mean here, each definition with its name and whether the model was helped along.

*Teacher-forced*: the model is shown the correct chain and judged symbol by symbol. *Free-running*: it writes the chain
itself, greedily, until the end symbol or the end of its context.

The chain is a function of the question, so a greedy decode equals the target exactly when the teacher-forced argmax
matches at every symbol to be written: one forward pass gives the strict free-running accuracy, and by the same token
exp(-sum of NLL) is its expectation when sampling at temperature 1. Only the lenient metrics need real decoding.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from kc_interp.model.forward import Sites, blocks, embed, forward, unembed
from kc_interp.spec import ModelSpec
from kc_interp.tasks.task import Chains
from kc_interp.tokens import Tokens

_ITEMS_A_CALL = 512


@dataclass(frozen=True)
class Definition:
    """One definition of success: whether the model was shown the correct chain, and what counts, in words."""

    title: str
    mode: str
    says: str


DEFINITIONS = {
    "exact": Definition(
        "Exact chain",
        "free-running",
        "every symbol of the chain, written greedily by the model itself, is right, the end symbol included (strict)",
    ),
    "exact_expected": Definition(
        "Exact chain at temperature 1",
        "free-running",
        "the probability of writing the whole chain rightly when sampling: exp of minus the summed NLL",
    ),
    "final": Definition(
        "Final answer", "free-running", "the symbol before the end symbol is the answer, whatever the lines before say"
    ),
    "paper": Definition(
        "The paper's",
        "free-running",
        "the first symbol after the first '=' is the answer (after the last '=' where '=' separates all lines)",
    ),
    "answer": Definition("Answer", "teacher-forced", "given the correct chain up to the answer, the answer is right"),
    "answer_nats": Definition("Answer NLL", "teacher-forced", "minus the log-probability of the answer, in nats"),
    "answer_brier": Definition(
        "Answer Brier score", "teacher-forced", "squared error of the answer's distribution, 0 (best) to 2"
    ),
    "chain_nats": Definition("Chain NLL", "teacher-forced", "the summed NLL of all symbols to be written, in nats"),
}


@dataclass(frozen=True)
class Items:
    """Chains in one model's tokens. `end` is its end token (the padding), `d_vocab` the size of its vocabulary."""

    ids: Int[Tensor, "item pos"]
    lengths: Int[Tensor, " item"]
    prompts: Int[Tensor, " item"]
    answers: Int[Tensor, " item"]
    end: int
    d_vocab: int

    @classmethod
    def of(cls, chains: Chains, tokens: Tokens) -> Items:
        """Raises DataError when the vocabulary lacks a symbol of the chains."""
        parts = (tokens.encode(chains.symbols), chains.lengths, chains.prompts, chains.answers)
        ids, lengths, prompts, answers = (torch.from_numpy(np.asarray(part, dtype=np.int64)) for part in parts)
        return cls(ids, lengths, prompts, answers, tokens.end, len(tokens))

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, index: Tensor | slice) -> Items:
        """The items at `index`, cut to the longest."""
        lengths = self.lengths[index]
        width = int(lengths.max()) if len(lengths) else 1
        return Items(
            self.ids[index][:, :width], lengths, self.prompts[index], self.answers[index], self.end, self.d_vocab
        )

    @property
    def targets(self) -> Int[Tensor, " item"]:
        """The token of each answer."""
        return self.ids.gather(1, self.answers[:, None])[:, 0]


@dataclass(frozen=True)
class Forced:
    """What one teacher-forced pass says of each item of each run."""

    exact: Bool[Tensor, "run item"]
    answer: Bool[Tensor, "run item"]
    answer_nats: Float[Tensor, "run item"]
    answer_brier: Float[Tensor, "run item"]
    chain_nats: Float[Tensor, "run item"]

    @property
    def exact_expected(self) -> Float[Tensor, "run item"]:
        return torch.exp(-self.chain_nats)


@torch.no_grad()
def forced(params: Mapping[str, Tensor], spec: ModelSpec, items: Sequence[Items]) -> Forced:
    """One teacher-forced pass over every run's own items (equally many a run).

    The members of an ensemble may have vocabularies smaller than the parameters': what lies beyond is never predicted.
    """
    parts = [_forced(params, spec, chunk) for chunk in _chunks(items)]
    return Forced(*(torch.cat([getattr(part, f.name) for part in parts], dim=1) for f in fields(Forced)))


def exact(params: Mapping[str, Tensor], spec: ModelSpec, items: Sequence[Items]) -> Bool[Tensor, "run item"]:
    """Which chains a greedy decode would write exactly, end symbol included."""
    return forced(params, spec, items).exact


def _chunks(items: Sequence[Items]) -> Iterator[list[Items]]:
    for low in range(0, len(items[0]), _ITEMS_A_CALL):
        yield [run.take(slice(low, low + _ITEMS_A_CALL)) for run in items]


def _stack(parts: Sequence[Tensor], fill: int, device: torch.device) -> Tensor:
    width = max(part.shape[-1] for part in parts)
    return torch.stack([F.pad(part, (0, width - part.shape[-1]), value=fill) for part in parts]).to(device)


def _forced(params: Mapping[str, Tensor], spec: ModelSpec, items: Sequence[Items]) -> Forced:
    device = params["embed.W_E"].device
    ids = _stack([run.ids for run in items], 0, device)
    lengths, prompts, answers = (
        torch.stack([getattr(run, name) for run in items]).to(device) for name in ("lengths", "prompts", "answers")
    )
    logits = forward(params, spec, ids[:, :, :-1]).float()
    sizes = torch.tensor([run.d_vocab for run in items], device=device)
    logits = logits.masked_fill(torch.arange(logits.shape[-1], device=device) >= sizes[:, None, None, None], -torch.inf)
    targets = ids[:, :, 1:]
    place = torch.arange(1, ids.shape[2], device=device)
    written = (place >= prompts[..., None]) & (place < lengths[..., None])
    right = logits.argmax(-1) == targets
    logprobs = logits.log_softmax(-1)
    nats = -logprobs.gather(-1, targets[..., None])[..., 0]
    at_answer = (answers - 1)[..., None]
    distribution = logprobs.gather(2, at_answer[..., None].expand(-1, -1, 1, logits.shape[-1]))[:, :, 0].exp()
    truth = F.one_hot(ids.gather(2, answers[..., None])[..., 0], logits.shape[-1])
    return Forced(
        exact=(right | ~written).all(-1),
        answer=right.gather(2, at_answer)[..., 0],
        answer_nats=nats.gather(2, at_answer)[..., 0],
        answer_brier=(distribution - truth).pow(2).sum(-1),
        chain_nats=torch.where(written, nats, 0).sum(-1),
    )


@torch.no_grad()
def decode(params: Mapping[str, Tensor], spec: ModelSpec, items: Items) -> Int[Tensor, "item place"]:
    """What one run (run axis of one) writes greedily after each question: whole sequences, padded with the end token.

    A chain stops at its first end token, or unfinished when the context is full.
    """
    n_ctx = params["pos_embed.W_pos"].shape[1]
    found = torch.full((len(items), n_ctx + 1), items.end)
    for length in items.prompts.unique().tolist():
        rows = torch.nonzero(items.prompts == length)[:, 0]
        for chunk in rows.split(_ITEMS_A_CALL):
            written = _continue(params, spec, items.ids[chunk, :length], items.end, n_ctx)
            found[chunk, : written.shape[1]] = written.cpu()
    return found


def _continue(
    params: Mapping[str, Tensor], spec: ModelSpec, prompt: Int[Tensor, "item asked"], end: int, n_ctx: int
) -> Int[Tensor, "item written"]:
    """Equally long prompts, continued with the keys and values of what came before kept."""
    ids = prompt.to(params["embed.W_E"].device)
    names = [f"blocks.{index}.attn.hook_{part}" for index in range(spec.depth) for part in "kv"]
    past: dict[int, tuple[Tensor, Tensor]] | None = None
    fresh, done = ids, torch.zeros(len(ids), dtype=torch.bool, device=ids.device)
    while not done.all() and ids.shape[1] <= n_ctx:
        sites = Sites(record=names)
        resid = embed(params, fresh[None], offset=ids.shape[1] - fresh.shape[1], sites=sites)
        resid = blocks(params, spec, resid, past=past, answer_only=True, sites=sites)
        token = unembed(params, spec, resid)[0, :, -1].argmax(-1)
        now = {i: tuple(sites.cache[f"blocks.{i}.attn.hook_{part}"] for part in "kv") for i in range(spec.depth)}
        past = {
            i: (k, v) if past is None else (torch.cat([past[i][0], k], 2), torch.cat([past[i][1], v], 2))
            for i, (k, v) in now.items()
        }
        fresh = torch.where(done, end, token)[:, None]
        ids = torch.cat([ids, fresh], dim=1)
        done = done | (token == end)
    return ids


def final_answers(decoded: Int[Tensor, "item pos"], items: Items) -> Int[Tensor, " item"]:
    """The token before the first end token of what was written; -1 where nothing was, or no end."""
    place = torch.arange(decoded.shape[1])
    ends = (decoded == items.end) & (place >= items.prompts[:, None])
    first = torch.where(ends.any(1), ends.int().argmax(1), 0)
    before = decoded.gather(1, (first - 1).clamp(min=0)[:, None])[:, 0]
    unfinished = decoded[:, -1] != items.end
    return torch.where((first > items.prompts) & ~unfinished, before, -1)


def papers_answers(
    decoded: Int[Tensor, "item pos"], items: Items, equals: int, *, separated_by_equals: bool
) -> Int[Tensor, " item"]:
    """The token after the first `=` that was written (the last one where `=` separates all lines); -1 if none was."""
    place = torch.arange(decoded.shape[1])
    found = (decoded == equals) & (place >= items.prompts[:, None]) & (place < decoded.shape[1] - 1)
    last = decoded.shape[1] - 1 - found.flip(1).int().argmax(1)
    at = last if separated_by_equals else found.int().argmax(1)
    after = decoded.gather(1, (at + 1).clamp(max=decoded.shape[1] - 1)[:, None])[:, 0]
    return torch.where(found.any(1), after, -1)
