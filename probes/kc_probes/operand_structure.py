"""Operand structure: how do operands enter, where do they meet, and is what is computed there ordered by number?

All single steps of one template (every combination of operands, 1,000 for three digits) are run; the activations that
each block's attention writes and that its MLP's neurons take at the position that predicts the answer are then read
three ways. *Order*: how much of their variance each operand makes alone, and how much only pairs or triples together
(a functional analysis of variance): where interactions begin, operands meet. *Exchange*: how much is the same when
operands change places. *Number*: how much depends on the operands' sum alone, and how much
on the answer alone. An MLP that looks a table up has neurons
for single combinations, and combinations of one sum have nothing in common; one that works with numbers has. The
neurons count, not what the MLP writes: that must resemble the answer, however it was found.

The control of *number* gives the digits other values, at random but for those that keep arithmetic modulo their number:
what sums of these explain is due to digits being few and neurons smooth, not to number. Fewer than four digits have no
such values.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int

from kc_interp.circuits import modular
from kc_interp.circuits.effects import Metric
from kc_interp.circuits.reading import direct_attribution, explained, interactions, logit_lens, multisets
from kc_interp.errors import SpecError
from kc_interp.finding import Figure, Finding, Number, Table
from kc_interp.model.forward import Sites, forward
from kc_interp.model.graph import Graph
from kc_interp.model.interventions import Streams
from kc_interp.probe import Subject
from kc_interp.steps import Steps, all_steps, neurons

_ORDERS = ("one operand alone", "two together", "three together", "four together", "five together", "six together")
_WORDS = {
    "exchange": ("the same when operands change places", "the model treats the operands alike"),
    "number": ("that depends on the operands' sum alone", "what is computed there is ordered by number"),
    "answer": ("that depends on the answer alone", "what is computed there is the answer already"),
}


@dataclass(frozen=True)
class OperandStructure:
    """Reads every single step of `component` (of the whole task when it has none) with most operands.

    `relabellings` random values of the digits make the control of *number*.
    """

    component: str | None = "SUM"
    relabellings: int = 100

    def __post_init__(self) -> None:
        if self.relabellings < 20:
            raise SpecError(f"relabellings is {self.relabellings}; a 95 % point needs at least 20")

    def run(self, subject: Subject) -> Finding:
        """Raises ProbeError when the task has no single steps of two or more digits in every combination."""
        steps = all_steps(subject, self.component)
        model = subject.checkpoint.spec.model
        ids = subject.ids(steps.chains)[:, :, : steps.query + 1]
        sites = Sites(record={name for block in range(model.depth) for name in _sites(block)})
        with torch.no_grad():
            logits = forward(subject.params, model, ids, sites=sites)[0, :, -1]
        answers = torch.from_numpy(subject.tokens.encode(steps.chains.answer_symbols())).to(logits.device)
        right = (logits.argmax(-1) == answers).cpu().numpy()
        sums = relabelled_sums(steps, self.relabellings, subject.rng("operand-structure: relabellings"))
        numbers = [
            Number(
                "steps.right",
                "Single steps answered rightly",
                float(right.mean()),
                n=len(right),
                unit="exact",
                control=float(np.unique(answers.cpu().numpy(), return_counts=True)[1].max()) / len(right),
                control_says="always the commonest answer",
                higher_means="more of the table is known",
                note="all of them, in training or not; teacher-forced",
            )
        ]
        shares: dict[str, list[float | None]] = {}
        for block in range(model.depth):
            for name, title, values in _activations(subject, sites, block):
                found = list(_shares(name, title, values, steps.operands, steps.chains.answer_symbols(), sums))
                numbers += found
                shares[title] = [number.value for number in found]
        numbers += self._reads(subject, ids[0], answers, model.depth)
        return Finding(
            probe="operand-structure",
            subject=subject.name,
            title="Operands: how they enter, where they meet, and whether number orders what is computed",
            sentence=_sentence(subject, steps, right, numbers, model.depth),
            status="unlearned" if subject.learned is False else "ok",
            numbers=tuple(numbers),
            tables=(_attribution_table(subject, ids[0], answers, logits),),
            figures=(_figure(shares, steps.operands.shape[1]),),
            settings=dataclasses.asdict(self),
        )

    def _reads(
        self, subject: Subject, ids: Int[torch.Tensor, "batch pos"], answers: Int[torch.Tensor, " batch"], depth: int
    ) -> Iterator[Number]:
        """The logit lens before each block and after the last."""
        streams = Streams.of(subject.params, subject.checkpoint.spec.model, ids)
        others = answers[torch.from_numpy(subject.rng("operand-structure: others").permutation(len(answers)))]
        read, control = (logit_lens(streams, of).mean(1).tolist() for of in (answers, others))
        for stage in range(depth + 1):
            where = f"before block {stage}" if stage < depth else "after the last block"
            yield Number(
                f"lens.stage{stage}",
                f"Logit lens: probability of the answer {where}",
                read[stage],
                n=len(answers),
                unit="exact",
                control=control[stage],
                control_says="the answer of another question",
                higher_means="the answer can be read off the stream earlier",
            )


def _sites(block: int) -> tuple[str, str]:
    return f"blocks.{block}.hook_attn_out", f"blocks.{block}.mlp.hook_post"


def _activations(subject: Subject, sites: Sites, block: int) -> Iterator[tuple[str, str, Float[np.ndarray, "e f"]]]:
    """What attention writes and what the MLP's neurons take, each neuron as loud as what it writes is long."""
    attention = sites.cache[_sites(block)[0]][0, :, -1].double().cpu().numpy()
    taken = neurons(subject.params, subject.checkpoint.spec.model, sites, block)
    yield f"attn{block}", f"attention of block {block}", attention
    yield f"mlp{block}", f"MLP neurons of block {block}", taken


def _shares(
    key: str,
    title: str,
    values: Float[np.ndarray, "example feature"],
    operands: Int[np.ndarray, "example operand"],
    answers: Int[np.ndarray, " example"],
    sums: Int[np.ndarray, "relabelling example"],
) -> Iterator[Number]:
    found = interactions(values, operands)
    silent = "" if found is not None else "nothing varies here"
    count, digits = operands.shape[1], int(operands.max()) + 1
    for index in range(count):
        at_random = math.comb(count, index + 1) * (digits - 1) ** (index + 1) / (digits**count - 1)
        yield Number(
            f"{key}.order{index + 1}",
            f"{title}: variance from {_ORDERS[index]}",
            None if found is None else found.order[index],
            n=len(operands),
            unit="exact",
            control=at_random,
            control_says="activations that are random for every step",
            higher_means="more of it is each operand on its own" if index == 0 else "operands have met",
            note=silent,
        )
    for name, groups in {"exchange": multisets(operands), "number": operands.sum(axis=1), "answer": answers}.items():
        value = None if found is None else explained(values, groups)
        control = [explained(values, other) for other in sums] if name == "number" and found is not None else []
        usable = [share for share in control if share is not None]
        few = name == "number" and not len(sums)
        says = "groups at random, on average"
        if usable:
            says = f"95 % point of {len(usable)} random values of the digits"
        yield Number(
            f"{key}.{name}",
            f"{title}: variance {_WORDS[name][0]}",
            value,
            n=len(operands),
            unit="exact",
            control=None if few else float(np.quantile(usable, 0.95)) if usable else 0.0,
            control_says="" if few else says,
            higher_means=_WORDS[name][1],
            note=silent or (f"no control: other values of {digits} digits all keep their arithmetic" if few else ""),
        )


def relabelled_sums(steps: Steps, count: int, rng: np.random.Generator) -> Int[np.ndarray, "relabelling example"]:
    """The operands' sums under other values of the digits that do not keep arithmetic modulo their number.

    None of them for fewer than four digits, which have no such values.
    """
    if len(steps.digits) < modular.FEWEST_DIGITS:
        return np.empty((0, len(steps.operands)), dtype=np.int64)
    return modular.relabellings(len(steps.digits), count, rng)[:, steps.operands].sum(axis=-1)


def _sentence(subject: Subject, steps: Steps, right: np.ndarray, numbers: list[Number], depth: int) -> str:
    of = {number.key: number for number in numbers}
    count = steps.operands.shape[1]
    says = [f"All {len(right)} single steps of {count} operands; {right.mean():.1%} answered rightly."]
    for block in range(depth):
        together = [of[f"mlp{block}.order{index}"].value for index in range(2, count + 1)]
        number, exchange = of[f"mlp{block}.number"], of[f"mlp{block}.exchange"]
        if number.value is None or exchange.value is None:
            says.append(f"The MLP of block {block} does not vary.")
            continue
        compared = "with so few digits there is nothing to compare it with"
        if number.control is not None:
            beyond = "more" if number.value > number.control else "no more"
            compared = f"{beyond} than the {number.control:.0%} of digits with random values"
        says.append(
            f"In the MLP of block {block} {sum(share or 0.0 for share in together):.0%} of the variance comes from "
            f"operands together, {exchange.value:.0%} stays when they change places, and {number.value:.0%} depends on "
            f"their sum ({compared})."
        )
    says.append(
        "Shares say how activations are ordered, not what later parts make of them; that number orders them does not "
        "show that the model adds."
    )
    if subject.learned is False:
        says.insert(0, "This model has not learned its task, so nothing is claimed about how it solves it.")
    return " ".join(says)


def _attribution_table(
    subject: Subject,
    ids: Int[torch.Tensor, "batch pos"],
    answers: Int[torch.Tensor, " batch"],
    logits: Float[torch.Tensor, "batch d_vocab"],
) -> Table:
    """Direct logit attribution: the answer against the best wrong one."""
    model = subject.checkpoint.spec.model
    wrong = logits.scatter(1, answers[:, None], -torch.inf).argmax(-1)
    added = direct_attribution(Streams.of(subject.params, model, ids), Metric(answers, wrong)).cpu().numpy()
    graph = Graph.of(model)
    rows = tuple(
        (name, round(float(own.mean()), 3), round(float(own.std()), 3), round(float((own > 0).mean()), 3))
        for name, own in zip(graph.writers, added, strict=True)
    )
    return Table(
        "Direct logit attribution: the answer's logit minus the best wrong one's, by who wrote it",
        ("writer", "mean", "spread over steps", "share above 0"),
        rows,
        "With the final LayerNorm's scale as it is. What a part adds directly; what others make of it does not count.",
    )


def _figure(shares: dict[str, list[float | None]], operands: int) -> Figure:
    return Figure(
        kind="heatmap",
        title="Where operands meet, and whether number orders it",
        shows="Shares of the variance at the position that predicts the answer, over all single steps: by how many "
        "operands act together, and how much depends on the operands' multiset, their sum or the answer alone.",
        refuted_by="A share for the sum no larger than digits of random values have (the control, in the numbers): "
        "then number orders nothing there.",
        data={
            "x": [*_ORDERS[:operands], "operands exchanged", "sum alone", "answer alone"],
            "y": list(shares),
            "z": list(shares.values()),
            "zmid": None,
            "x_title": "",
            "y_title": "",
            "z_title": "share of variance",
        },
    )
