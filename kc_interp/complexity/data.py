"""Complexity of the data: compressed size of samples in bits per example, by compressors that know nothing of the task.

A symbol is one byte and every text ends with the end symbol. Three texts are measured: whole chains, questions alone,
and answers given questions: the size of questions with answers less the size of the questions. The last is an estimate
of what the answers add to a reader who does not know the operations; under a solving program they add nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy.special import stdtrit

from kc_interp.complexity.compressors import COMPRESSORS, compressed_bytes
from kc_interp.complexity.measure import Measure
from kc_interp.errors import SpecError
from kc_interp.tasks import codes
from kc_interp.tasks.listops import ListOps
from kc_interp.tasks.task import Chains

_TEXTS = {
    "chains": ("chains", "whole worked examples"),
    "questions": ("questions", "questions alone"),
    "answers": ("answers given questions", "questions with answers less questions alone"),
}


def texts(chains: Chains) -> tuple[bytes, bytes, bytes]:
    """Chains, questions, and questions with their answers, each example closed by the end symbol."""
    place = np.arange(chains.symbols.shape[1])
    lengths, prompts = chains.lengths[:, None], chains.prompts[:, None]
    ended = np.where(place < prompts, chains.symbols, codes.END)
    answered = np.where(place == prompts, chains.answer_symbols()[:, None], ended)
    parts = ((chains.symbols, lengths), (ended, prompts + 1), (answered, prompts + 2))
    whole, questions, answers = (symbols[place < ends].astype(np.uint8).tobytes() for symbols, ends in parts)
    return whole, questions, answers


def sample_bits(task: ListOps, compressor: str, *, examples: int, seed: int) -> dict[str, float]:
    """Bits per example of one sample's three texts. The seed draws the same brackets for every set of operations."""
    whole, questions, answered = texts(task.sample(examples, np.random.default_rng([3, seed])))
    size = [8 * compressed_bytes(text, compressor) / examples for text in (whole, questions, answered)]
    return {"chains": size[0], "questions": size[1], "answers": size[2] - size[1]}


def mean_and_interval(values: Sequence[float], level: float = 0.95) -> tuple[float, float, float]:
    """The mean with Student's interval, the seeds being the units. Needs two values."""
    mean = float(np.mean(values))
    half = float(stdtrit(len(values) - 1, (1 + level) / 2) * np.std(values, ddof=1) / math.sqrt(len(values)))
    return mean, mean - half, mean + half


def measures(task: ListOps, *, examples: int = 1_000, seeds: int = 5) -> list[Measure]:
    """Every text with every compressor. Raises SpecError without enough examples or seeds for an interval."""
    if examples < 10:
        raise SpecError(f"examples is {examples}; a sample to compress needs at least 10")
    if seeds < 2:
        raise SpecError(f"seeds is {seeds}; an interval needs at least 2 samples")
    found = []
    for compressor in COMPRESSORS:
        drawn = [sample_bits(task, compressor, examples=examples, seed=seed) for seed in range(seeds)]
        for name, (title, says) in _TEXTS.items():
            mean, low, high = mean_and_interval([bits[name] for bits in drawn])
            found.append(
                Measure(
                    key=f"data.{name}.{compressor}",
                    title=f"{title}, {compressor}",
                    value=mean,
                    unit="bits/example",
                    family="data",
                    definition=f"{says}, compressed by {compressor} (one byte a symbol, header subtracted); mean of "
                    f"{seeds} samples of {examples:,} with a 95 % interval",
                    low=low,
                    high=high,
                )
            )
    return found
