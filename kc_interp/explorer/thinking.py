"""What a model does with one expression, untouched or with parts of it cut: the numbers behind every view.

Everything is exact: a cut part carries something else, and all that reads it is computed anew
(`kc_interp.model.interventions`). Teacher-forced, the model is shown the correct chain; free-running, it reads what it
wrote itself. What a cut part carries instead is nothing (zero), or is taken position by position from a teacher-forced
run: of questions of the same shape (mean, resample) or of the second expression (patch). Where a free run grows longer
than that, only zero is still known, and `Thought.restored_from` says from where on the other cut parts are whole again.
"""

from __future__ import annotations

import copy
import dataclasses
import re
import threading
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from kc_interp.checkpoint import Checkpoint
from kc_interp.circuits.effects import Metric
from kc_interp.errors import DataError, ProbeError
from kc_interp.explorer.state import Cut, How
from kc_interp.model.forward import Sites, unembed
from kc_interp.model.graph import BIAS, Graph
from kc_interp.model.interventions import Mix, Streams, biases, embedded, mixing, run_everywhere
from kc_interp.tasks.task import Chains
from kc_interp.tokens import lines, position_classes

REFERENCES = 512
"""Questions of the same shape, over which a mean is taken."""

_KEPT = 512
_KEPT_BYTES = 200_000_000
_CHAINS_A_CALL = 64
_FLOATS_A_CALL = 6_000_000
_NEURON = re.compile(r"m(\d+)\.n(\d+)")
_BLOCK = re.compile(r"(a|resid)(\d+)")
_T = TypeVar("_T")


@dataclass(frozen=True)
class Thought:
    """What one model made of one expression. Positions count from 0; `probabilities[p]` is for the symbol at p + 1.

    `symbols` is what the model read: the question, then the correct chain (teacher-forced) or what it wrote itself
    (`free`), the end symbol last; `asked` is the number of symbols of the question. `correct` is the correct chain.
    `written` is what every writer wrote (named as `Graph.writers`; the bias stands elsewhere and is 0 here); `read` is
    what the unembedding reads of it: the same, but for what cut edges carry instead. `bias` is what it reads of the
    output biases, by stage as in `kc_interp.model.interventions.Streams`. `restored_from` is the position from which on
    parts that are cut everywhere carry their own writing again, because nothing else is known there; None: from none.
    """

    symbols: tuple[str, ...]
    correct: tuple[str, ...]
    classes: tuple[str, ...]
    line: tuple[int, ...]
    asked: int
    free: bool
    vocabulary: tuple[str, ...]
    probabilities: Float[np.ndarray, "pos d_vocab"]
    patterns: Float[np.ndarray, "layer head pos pos"]
    neurons: Float[np.ndarray, "layer pos d_mlp"]
    written: Float[Tensor, "writer pos d_model"]
    read: Float[Tensor, "writer pos d_model"]
    bias: Float[Tensor, "stage pos d_model"]
    restored_from: int | None = None

    @property
    def choices(self) -> tuple[str, ...]:
        """The model's most probable next symbol at each position but the last."""
        return tuple(self.vocabulary[token] for token in self.probabilities.argmax(-1))

    @property
    def end(self) -> bool:
        """Whether the chain ends with the end symbol; a free run stops without it where the context is full."""
        return self.classes[-1] == "end"

    @property
    def answer(self) -> str | None:
        """The answer: teacher-forced the most probable symbol where the answer stands, free the last before the end."""
        if self.free:
            return self.symbols[-2] if self.end and len(self.symbols) > self.asked + 1 else None
        return self.choices[self.query]

    @property
    def query(self) -> int:
        """The position that predicts the answer: two before the end symbol."""
        return max(len(self.symbols) - 3, 0)

    @property
    def target(self) -> str:
        """The correct answer."""
        return self.correct[-2]

    @property
    def exact(self) -> bool:
        """Whether the model writes the whole correct chain by itself (its greedy choice is right everywhere)."""
        if self.free:
            return self.symbols == self.correct
        return self.choices[self.asked - 1 :] == self.correct[self.asked :]

    def probability(self, position: int) -> float:
        """How probable the symbol at this position was before it was read (position > 0)."""
        return float(self.probabilities[position - 1, self.vocabulary.index(self.symbols[position])])


@dataclass(frozen=True)
class _Source:
    """What cut parts carry instead: every writer's and every neuron's value at each position of the correct chain."""

    written: Float[Tensor, "writer pos d_model"]
    bias: Float[Tensor, "stage d_model"]
    neurons: Float[Tensor, "layer pos d_mlp"]


@dataclass
class _Kept:
    """An answer, perhaps still being worked out, and the bytes that it holds."""

    answer: Future[Any]
    size: int = 0


class Thinker:
    """One checkpoint that answers questions under interventions. Answers are kept, the most recent ones."""

    def __init__(self, name: str, checkpoint: Checkpoint) -> None:
        self.name, self.checkpoint = name, checkpoint
        self.graph = Graph.of(checkpoint.spec.model)
        self._kept: OrderedDict[Any, _Kept] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def params(self) -> Mapping[str, Tensor]:
        return self.checkpoint.stacked

    @cached_property
    def d_mlp(self) -> int:
        return int(self.checkpoint.params["blocks.0.mlp.W_in"].shape[-1])

    def kept(self, key: Any, make: Callable[[], _T]) -> _T:
        """What `make` made the last time for this key, while it is kept; who asks meanwhile waits for the same answer.

        The most recent ones are kept, as many as fit. An error is raised and not kept.
        """
        with self._lock:
            found = self._kept.get(key)
            entry = self._kept.setdefault(key, _Kept(Future()))
            self._kept.move_to_end(key)
        if found is None:
            try:
                made = make()
            except BaseException as error:
                with self._lock:
                    self._kept.pop(key, None)
                entry.answer.set_exception(error)
                raise
            entry.size = _bytes(made)
            entry.answer.set_result(made)
            self._forget()
        return entry.answer.result()

    def _forget(self) -> None:
        with self._lock:
            held = sum(entry.size for entry in self._kept.values())
            while len(self._kept) > 1 and (len(self._kept) > _KEPT or held > _KEPT_BYTES):
                held -= self._kept.popitem(last=False)[1].size

    def read(self, text: str) -> Chains:
        """The question with its correct chain. Raises ExpressionError, or DataError on what this model cannot read."""
        return self.kept(("read", text), lambda: self._read(text))

    def _read(self, text: str) -> Chains:
        task, tokens = self.checkpoint.task, self.checkpoint.tokens
        chains = task.parse(text)
        if not tokens.knows(chains)[0]:
            known = set(tokens.codes)
            strange = dict.fromkeys(task.symbols[code] for code in chains.symbols[0].tolist() if code not in known)
            raise DataError(f"{self.name} has no token for {', '.join(strange)}; it reads {' '.join(tokens.symbols)}")
        needed = int(chains.lengths[0]) - 1
        if needed > self.checkpoint.n_ctx:
            raise DataError(
                f"the chain of this question has {needed + 1} symbols, {self.name} reads {self.checkpoint.n_ctx}; "
                "ask with fewer operations"
            )
        return chains

    def think(
        self, question: str, cuts: Sequence[Cut] = (), *, twin: str = "", free: bool = False, seed: int = 0
    ) -> Thought:
        """What the model does with the question under the cuts.

        Raises ExpressionError or DataError on a question it cannot read, ProbeError on a part that it does not have or
        a second expression that does not fit.
        """
        changed = tuple((cut.how, cut.what, cut.position) for cut in cuts)
        sourced = {cut.how for cut in cuts}
        key = (
            "think",
            question,
            changed,
            twin if "patch" in sourced else "",
            free,
            seed if "resample" in sourced else 0,
        )
        return self.kept(key, lambda: self._think(question, cuts, twin, free, seed))

    def _think(self, question: str, cuts: Sequence[Cut], twin: str, free: bool, seed: int) -> Thought:
        chains = self.read(question)
        correct = self._ids(chains)[0]
        change = self._change(question, cuts, twin, seed, free)
        asked = int(chains.prompts[0])
        ids = self._written_freely(correct, asked, change) if free else correct
        written, logits, sites = self._run(ids[:-1], change)
        if not bool(logits.isfinite().all()):
            raise ProbeError(f"the logits of {self.name} are not finite; did its training diverge?")
        return self._thought(chains, ids, asked, free, change, written, logits, sites)

    def _thought(
        self,
        chains: Chains,
        ids: Tensor,
        asked: int,
        free: bool,
        change: _Change | None,
        written: Tensor,
        logits: Tensor,
        sites: Sites,
    ) -> Thought:
        task, tokens = self.checkpoint.task, self.checkpoint.tokens
        bias = biases(self.params, self.checkpoint.spec.model)[:, None].expand(-1, written.shape[1], -1)
        seen, bias = change.read_out(written, bias) if change else (written, bias)
        codes = tokens.decode(ids.cpu().numpy())[None]
        read = Chains(codes, np.asarray([len(ids)]), chains.prompts, np.asarray([len(ids) - 2]))
        depth = self.graph.depth
        return Thought(
            symbols=tuple(task.symbols[code] for code in codes[0].tolist()),
            correct=tuple(task.symbols[code] for code in chains.symbols[0, : int(chains.lengths[0])].tolist()),
            classes=tuple(str(label) for label in position_classes(task, read)[0]),
            line=tuple(lines(task, read)[0].tolist()),
            asked=asked,
            free=free,
            vocabulary=tokens.symbols,
            probabilities=logits.double().softmax(-1).cpu().numpy(),
            patterns=_recorded(sites, "attn.hook_pattern", depth).cpu().numpy(),
            neurons=_recorded(sites, "mlp.hook_post", depth).cpu().numpy(),
            written=written,
            read=seen,
            bias=bias,
            restored_from=change.restored_from(len(ids) - 1) if change else None,
        )

    def _ids(self, chains: Chains) -> Int[Tensor, "chain pos"]:
        width = int(chains.lengths.max())
        ids = self.checkpoint.tokens.encode(chains.symbols[:, :width])
        return torch.from_numpy(np.asarray(ids, dtype=np.int64)).to(self.checkpoint.device)

    @torch.no_grad()
    def _run(
        self, ids: Int[Tensor, " pos"], change: _Change | None
    ) -> tuple[Float[Tensor, "writer pos d_model"], Float[Tensor, "pos d_vocab"], Sites]:
        spec = self.checkpoint.spec.model
        names = {
            f"blocks.{block}.{part}"
            for block in range(self.graph.depth)
            for part in ("attn.hook_pattern", "mlp.hook_post")
        }
        mix, edits = change.at(len(ids)) if change else (None, {})
        sites = Sites(record=names, edits=edits)
        first = embedded(self.params, spec, ids[None])[None]
        written, logits = run_everywhere(self.params, spec, first, mix=mix, sites=sites)
        return written[0, :, 0], logits[0, 0], sites

    def _written_freely(
        self, correct: Int[Tensor, " pos"], asked: int, change: _Change | None
    ) -> Int[Tensor, " written"]:
        """The question and what the model writes after it, greedily, up to the end symbol or the end of its context.

        The correct chain is the first guess of what it will write; every pass confirms the guess up to the first symbol
        where the model would have written another, and what it chose from there on is the next guess. Exact, with few
        passes where it errs seldom.
        """
        end, full = self.checkpoint.tokens.end, self.checkpoint.n_ctx + 1
        guess, sure = correct, asked
        while True:
            chosen = self._run(guess[:-1], change)[1].argmax(-1)
            wrong = (chosen[sure - 1 :] != guess[sure:]).nonzero()[:, 0]
            sure = sure + int(wrong[0]) + 1 if len(wrong) else len(guess)
            guess = torch.cat([guess[:asked], chosen[asked - 1 :]])
            ends = (guess[asked:sure] == end).nonzero()[:, 0]
            if len(ends):
                return guess[: asked + int(ends[0]) + 1]
            if sure >= full:
                return guess[:full]
            if sure == len(guess):
                guess = torch.cat([guess, guess.new_tensor([end])])

    def _change(
        self, question: str, cuts: Sequence[Cut], twin: str, seed: int, free: bool, hows: Collection[How] = ()
    ) -> _Change | None:
        """`hows` are ways of cutting that the change must know beside those of its own cuts."""
        if not cuts and not hows:
            return None
        known = int(self.read(question).lengths[0]) - 1
        sources = {how: self._source(how, question, twin, seed) for how in {*hows, *(cut.how for cut in cuts)}}
        change = _Change(self, sources, known, self.checkpoint.n_ctx if free else known)
        for cut in cuts:
            change.add(cut)
        return change

    def _source(self, how: How, question: str, twin: str, seed: int) -> _Source:
        if how == "zero":
            width, depth = int(self.read(question).lengths[0]) - 1, self.graph.depth
            size = self.checkpoint.spec.model.d_model
            stages = torch.zeros((2 * depth + 1, size), device=self.checkpoint.device)
            written = stages.new_zeros((len(self.graph.writers), width, size))
            return _Source(written, stages, stages.new_zeros((depth, width, self.d_mlp)))
        if how == "patch":
            return self._sources(self.fitting(question, twin))
        if how == "resample":
            return self._sources(self.resampled(question, seed))
        return self.kept(("mean", question), lambda: self._sources(self.references(question)))

    @torch.no_grad()
    def _sources(self, chains: Chains) -> _Source:
        """The mean over these chains of all that is written, teacher-forced."""
        spec, names = self.checkpoint.spec.model, [f"blocks.{b}.mlp.hook_post" for b in range(self.graph.depth)]
        written: Tensor | float = 0.0
        neurons: Tensor | float = 0.0
        for ids in self._ids(chains)[:, :-1].split(_CHAINS_A_CALL):
            sites = Sites(record=names)
            part, _ = run_everywhere(self.params, spec, embedded(self.params, spec, ids)[None], sites=sites)
            written = written + part[0].sum(1) / len(chains)
            neurons = neurons + torch.stack([sites.cache[name][0].sum(0) for name in names]) / len(chains)
        assert isinstance(written, Tensor) and isinstance(neurons, Tensor)
        return _Source(written, biases(self.params, spec), neurons)

    def references(self, question: str) -> Chains:
        """`REFERENCES` questions of the same shape with fresh contents, each with its correct chain, drawn by one seed.

        Raises ProbeError when none is found.
        """
        return self.kept(("references", question), lambda: self._alike(question, 0, REFERENCES))

    def resampled(self, question: str, seed: int) -> Chains:
        """One question of the same shape with another answer; another one for each seed. Raises ProbeError as above."""
        chains = self.read(question)
        drawn = self._alike(question, seed + 1, _CHAINS_A_CALL)
        rows = np.flatnonzero(drawn.answer_symbols() != chains.answer_symbols()[0])[:1]
        if not len(rows):
            raise ProbeError(f"no question of the shape of {question} has another answer; cut in another way")
        return drawn.take(rows)

    def _alike(self, question: str, seed: int, count: int) -> Chains:
        chains, task = self.read(question), self.checkpoint.task
        rng = np.random.default_rng([seed, count])
        drawn = task.redraw(chains.take(np.zeros(2 * count, dtype=np.int64)), rng)
        shape = position_classes(task, chains)[0]
        labels = position_classes(task, drawn)
        alike = (drawn.lengths == chains.lengths[0]) & self.checkpoint.tokens.knows(drawn)
        if labels.shape[1] == len(shape):
            alike &= (labels == shape).all(1)
        rows = np.flatnonzero(alike)[:count]
        if not len(rows):
            raise ProbeError(f"no other questions of the shape of {question} were found; cut by zero instead")
        return drawn.take(rows)

    def fitting(self, question: str, twin: str) -> Chains:
        """The second expression, when it has the first one's shape, symbol class by symbol class. Raises ProbeError."""
        if not twin.strip():
            raise ProbeError("patching takes what a second expression writes; type one")
        first, second = self.read(question), self.read(twin)
        task = self.checkpoint.task
        shapes = [position_classes(task, chains)[0, : int(chains.lengths[0])].tolist() for chains in (first, second)]
        if shapes[0] != shapes[1]:
            raise ProbeError(
                "the second expression must have the shape of the first, bracket for bracket and number for number; "
                f"{task.format(first)[0]} and {task.format(second)[0]} differ in it"
            )
        return second

    def usual(self, question: str) -> Float[Tensor, "layer pos d_mlp"]:
        """Every neuron's mean over questions of the same shape, teacher-forced: what a neuron cut by the mean carries.

        Raises ProbeError when there are no such questions.
        """
        return self._source("mean", question, "", 0).neurons

    @torch.no_grad()
    def without(
        self, question: str, cuts: Sequence[Cut], others: Sequence[Cut], *, twin: str = "", seed: int = 0
    ) -> Float[np.ndarray, "other d_vocab"]:
        """The answer's distribution, teacher-forced, with each of `others` cut beside `cuts`, one at a time.

        Each is what `think` finds under these cuts; they are computed together, from the first block that one changes.
        Raises as `think` does.
        """
        before = self.think(question, cuts, twin=twin, seed=seed)
        if not others:
            return np.empty((0, len(before.vocabulary)))
        params, spec, length = self.params, self.checkpoint.spec.model, before.query + 1
        base = self._change(question, cuts, twin, seed, False, {cut.how for cut in others})
        assert base is not None
        changes = [base.beside(other) for other in others]
        starts = np.asarray([change.start(base) for change in changes], dtype=np.int64)
        size = (len(self.graph.writers) + 3 * self.graph.n_heads) * length * spec.d_model
        found = np.empty((len(others), len(before.vocabulary)))
        for start, neurons in np.unique(starts, axis=0).tolist():
            rows = np.flatnonzero((starts == (start, neurons)).all(1))
            for chunk in np.array_split(rows, -(-len(rows) * size // _FLOATS_A_CALL)):
                written = before.written[None, : self.graph.head(start), None, :length].repeat(len(chunk), 1, 1, 1, 1)
                if neurons:
                    # A cut neuron moves what its MLP, the last writer so far, writes along one direction.
                    written[:, -1, 0] += torch.stack([changes[row].moved(before, others[row], length) for row in chunk])
                mix = base.mixed([changes[row] for row in ([chunk[0]] if neurons else chunk)], length)
                sites = Sites(edits=base.edits(length))
                _, logits = run_everywhere(params, spec, written, mix=mix, sites=sites)
                found[chunk] = logits[:, 0, -1].double().softmax(-1).cpu().numpy()
        return found

    def pair(self, question: str, twin: str) -> tuple[Streams, Streams, Metric]:
        """The untouched run of both expressions up to the answer, and the logit difference between their answers.

        Raises ProbeError when they do not fit, or have the same answer.
        """
        return self.kept(("pair", question, twin), lambda: self._pair(question, twin))

    def _pair(self, question: str, twin: str) -> tuple[Streams, Streams, Metric]:
        first, second = self.read(question), self.fitting(question, twin)
        ids = [self._ids(chains) for chains in (first, second)]
        query = int(first.answers[0]) - 1
        answers = [row[:, query + 1] for row in ids]
        if bool((answers[0] == answers[1]).all()):
            raise ProbeError("both expressions have the same answer; change the second one so that its answer differs")
        base, source = (Streams.of(self.params, self.checkpoint.spec.model, row[:, : query + 1]) for row in ids)
        return base, source, Metric(*answers)

    @torch.no_grad()
    def lens(self, thought: Thought) -> Float[np.ndarray, "stage pos d_vocab"]:
        """The logit lens: the next symbol's probabilities when the stream before each block, and after the last, is
        unembedded (nostalgebraist 2020). Edges cut into the unembedding are cut at every stage."""
        stages = [
            thought.read[: self.graph.head(block)].sum(0) + thought.bias[2 * block]
            for block in range(self.graph.depth + 1)
        ]
        logits = unembed(self.params, self.checkpoint.spec.model, torch.stack(stages)[None])[0]
        return logits.softmax(-1).double().cpu().numpy()


class _Change:
    """Cuts as one mix of streams and edits of neurons, for sequences of any length; a later cut wins.

    `which` holds, for every edge and position, the source that it takes from (-1: none); `stage`, for every reader and
    position, the block whose entering stream is cut there (-1: none), which says how much of the biases is.
    """

    def __init__(self, thinker: Thinker, sources: Mapping[How, _Source], known: int, width: int) -> None:
        """`known` positions have something to carry instead; up to `width` may be read."""
        self.thinker, self.hows, self.known = thinker, list(sources), known
        self.sources = [sources[how] for how in self.hows]
        graph = thinker.graph
        self.which = np.full((len(graph.writers), len(graph.readers), width), -1, dtype=np.int8)
        self.stage = np.full((len(graph.readers), width), -1, dtype=np.int8)
        self.neurons: dict[tuple[int, int], np.ndarray] = {}
        self.ends = False

    def add(self, cut: Cut) -> None:
        """Raises ProbeError when the model has no such part or the question no such position."""
        width = self.which.shape[2] if cut.how == "zero" else self.known
        if cut.position is not None and cut.position >= width:
            raise ProbeError(f"there is no position {cut.position} to cut; there are {width}, counted from 0")
        places = slice(0, width) if cut.position is None else slice(cut.position, cut.position + 1)
        self.ends |= cut.position is None and cut.how != "zero"
        how = self.hows.index(cut.how)
        if found := _NEURON.fullmatch(cut.what):
            neuron = int(found[1]), int(found[2])
            thinker = self.thinker
            if neuron[0] >= thinker.graph.depth or neuron[1] >= thinker.d_mlp:
                raise ProbeError(
                    f"{thinker.name} has no neuron {cut.what!r}: blocks 0 to {thinker.graph.depth - 1}, "
                    f"neurons 0 to {thinker.d_mlp - 1} in each"
                )
            now = self.neurons.get(neuron, np.full(self.which.shape[2], -1, dtype=np.int8)).copy()
            now[places] = how
            self.neurons[neuron] = now
            return
        found = _BLOCK.fullmatch(cut.what)
        block = int(found[2]) if found and found[1] == "resid" else -1
        for writer, reader in edges_of(self.thinker.graph, cut.what):
            self.which[writer, reader, places] = how
            if writer == BIAS:
                self.stage[reader, places] = block

    def restored_from(self, length: int) -> int | None:
        """The first of `length` positions at which a part that is cut everywhere is whole again; None: at none."""
        return self.known if self.ends and length > self.known else None

    def read_out(
        self, written: Float[Tensor, "writer pos d_model"], bias: Float[Tensor, "stage pos d_model"]
    ) -> tuple[Float[Tensor, "writer pos d_model"], Float[Tensor, "stage pos d_model"]]:
        """What the unembedding reads of what was written, and of the biases."""
        length = written.shape[1]
        stage = self.stage[-1, :length]
        for index, source in enumerate(self.sources):
            cut = torch.from_numpy(self.which[:, -1, :length] == index)[..., None].to(written.device)
            written = torch.where(cut, _to_length(source.written, length, 1), written)
            for block in np.unique(stage).tolist():
                here = cut[BIAS] & torch.from_numpy(stage == block)[:, None].to(cut.device)
                bias = torch.where(here, self._bias(index, block)[:, None], bias)
        return written, bias

    def _bias(self, index: int, block: int) -> Float[Tensor, "stage d_model"]:
        """What a source has of the biases, stage by stage. `block` 0 or more: of the stream that enters that block, to
        which the model adds its own later ones."""
        source = self.sources[index].bias
        if block < 0:
            return source
        own = biases(self.thinker.params, self.thinker.checkpoint.spec.model)
        entered = torch.arange(len(own), device=own.device).clamp(max=2 * block)
        return source[entered] + own - own[entered]

    def beside(self, cut: Cut) -> _Change:
        """This change with one more cut. A neuron's leaves the edges alone, which are then shared, not copied."""
        copied = copy.copy(self)
        copied.neurons = dict(self.neurons)
        if not _NEURON.fullmatch(cut.what):
            copied.which, copied.stage = self.which.copy(), self.stage.copy()
        copied.add(cut)
        return copied

    def start(self, base: _Change) -> tuple[int, bool]:
        """The first block that runs otherwise than in `base` (`depth`: the unembedding), and whether a neuron does it,
        which changes what its own block writes but not what the block reads."""
        for (block, neuron), which in self.neurons.items():
            if (block, neuron) not in base.neurons or (which != base.neurons[block, neuron]).any():
                return block + 1, True
        graph = self.thinker.graph
        changed = np.flatnonzero((self.which != base.which).any((0, 2)))
        return (graph.block(int(changed[0])) if len(changed) else graph.depth), False

    def moved(self, before: Thought, cut: Cut, length: int) -> Float[Tensor, "pos d_model"]:
        """How a neuron's cut moves what its MLP writes."""
        block, neuron = (int(number) for number in cut.what[1:].split(".n"))
        thinker = self.thinker
        weights = thinker.params[f"blocks.{block % thinker.checkpoint.spec.model.n_layers}.mlp.W_out"][0, neuron]
        now = torch.from_numpy(before.neurons[block, :length, neuron]).to(weights)
        change = self.sources[self.hows.index(cut.how)].neurons[block, :length, neuron] - now
        if cut.position is not None:
            change = change * (torch.arange(length, device=change.device) == cut.position)
        return change[:, None] * weights

    def at(self, length: int) -> tuple[Mix | None, dict[str, Callable[[Tensor], Tensor]]]:
        """The mix and the edits for a sequence of this length."""
        return self.mixed([self], length), self.edits(length)

    def mixed(self, changes: Sequence[_Change], length: int) -> Mix | None:
        """The mix that takes from these sources what each change says; one change a run."""
        which = np.stack([change.which[..., :length] for change in changes])
        stage = np.stack([change.stage[:, :length] for change in changes])
        mixes: list[Mix] = []
        for index in range(len(self.sources)):
            taken = which == index
            for block in np.unique(np.append(stage[taken[:, BIAS]], -1)).tolist():
                mask = taken.copy()
                mask[:, BIAS] &= stage == block
                if block >= 0:
                    mask[:, :BIAS], mask[:, BIAS + 1 :] = False, False
                if mask.any():
                    mixes.append(self._mix(mask, index, block, length))

        def mix(reader: int, count: int, stream: Tensor, written: Tensor) -> Tensor:
            here = stream[:, None]
            return here + sum(one(reader, count, stream, written) - here for one in mixes)

        return mix if mixes else None

    def _mix(self, replaced: Bool[np.ndarray, "run writer reader pos"], index: int, block: int, length: int) -> Mix:
        spec, source = self.thinker.checkpoint.spec.model, self.sources[index]
        written = _to_length(source.written, length, 1)[:, None]
        mask = torch.from_numpy(replaced.astype(np.float32)).to(written)
        streams = Streams(self.thinker.params, spec, written, self._bias(index, block), written.new_zeros((1, 1)))
        return mixing(streams, streams, mask)

    def edits(self, length: int) -> dict[str, Callable[[Tensor], Tensor]]:
        """The edits of neurons for a sequence of this length."""
        blocks = sorted({block for block, _ in self.neurons})
        return {f"blocks.{block}.mlp.hook_post": self._edit(block, length) for block in blocks}

    def _edit(self, block: int, length: int) -> Callable[[Tensor], Tensor]:
        def edit(post: Tensor) -> Tensor:
            post = post.clone()
            for (its, neuron), which in self.neurons.items():
                if its == block:
                    for index, source in enumerate(self.sources):
                        places = torch.from_numpy(np.flatnonzero(which[:length] == index)).to(post.device)
                        post[..., places, neuron] = _to_length(source.neurons, length, 1)[block, places, neuron]
            return post

        return edit


def edges_of(graph: Graph, what: str) -> list[tuple[int, int]]:
    """The edges that a cut part's writing takes: of one edge itself, of a writer all that leave it.

    "a0" is all heads of block 0; "resid1" the residual stream that enters block 1, as all later readers see it. Raises
    ProbeError when the graph has no such part.
    """
    if "->" in what:
        return [graph.edge(what)]
    found = _BLOCK.fullmatch(what)
    if found and int(found[2]) < graph.depth:
        block = int(found[2])
        if found[1] == "a":
            heads = range(graph.head(block), graph.head(block, graph.n_heads))
            return [edge for edge in graph.edges if edge[0] in heads]
        first = graph.reader(block)
        return [(writer, reader) for writer, reader in graph.edges if writer < graph.head(block) and reader >= first]
    if what in graph.writers:
        writer = graph.writers.index(what)
        return [edge for edge in graph.edges if edge[0] == writer]
    known = f"its parts are {', '.join(graph.writers[:1] + graph.writers[3:])}, a0 … (all heads), resid0 …, m0.n0 …"
    raise ProbeError(f"this model has no part {what!r}; {known}")


def _bytes(value: object) -> int:
    """The bytes of the arrays in an answer."""
    if isinstance(value, (np.ndarray, Tensor)):
        return value.nbytes
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = [getattr(value, field.name) for field in dataclasses.fields(value)]
    if isinstance(value, Mapping):
        value = list(value.values())
    return sum(map(_bytes, value)) if isinstance(value, (list, tuple)) else 0


def _to_length(values: Tensor, length: int, axis: int) -> Tensor:
    """Cut, or filled with zeros, to so many positions."""
    have = values.shape[axis]
    if length <= have:
        return values.narrow(axis, 0, length)
    shape = list(values.shape)
    shape[axis] = length - have
    return torch.cat([values, values.new_zeros(shape)], dim=axis)


def _recorded(sites: Sites, site: str, depth: int) -> Tensor:
    """What a site recorded in every block, of the one input: layer first."""
    return torch.stack([sites.cache[f"blocks.{block}.{site}"][0, 0] for block in range(depth)])
