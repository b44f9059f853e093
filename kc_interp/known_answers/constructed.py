"""Models written by hand: one reduction each, or the copying of a line. No LayerNorm, ReLU, attention all or nothing.

    [ SUM 7 5 ] = 2 <end>          positions 0 1 2 3 4 5 6 7: the operands stand at 2 and 3, `=` at 5 predicts

Every head that finds an operand asks at `=` and looks for a position: its query and its key are the same whatever the
operands are, so that only its value is part of the circuit. A third operand is optional: where two are given, a `]`
stands in its place, which counts as 0.

What is all or nothing is flat almost everywhere: methods that follow gradients may miss a part of these circuits (the
keys of `max_by_attention`, where all attention is in one place). That is theirs to report.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence

import numpy as np

from kc_interp.errors import SpecError
from kc_interp.known_answers.answer import KnownAnswer
from kc_interp.known_answers.weights import CONFIDENT, SHARP, Weights
from kc_interp.tasks.listops import ListOps, question_codes
from kc_interp.tasks.task import Chains
from kc_interp.tokens import Tokens

FIRST_OPERAND = 2
"""The position of the first operand, after `[` and the name."""

MOST_NEURONS = 4_096
"""A table of more entries is refused."""


def max_by_attention(modulus: int = 10) -> KnownAnswer:
    """MAX of two or three: a head attends to the largest operand and copies it.

    The larger a digit, the higher its key scores, so keys and values both carry the operands.
    """
    task = one_reduction("MAX", modulus, operands=3)
    weights = Weights.blank(task, {"answer": modulus}, d_head=modulus)
    digits = [weights.symbol(str(digit)) for digit in range(modulus)]
    weights.attend(0, 0, {weights.symbol("="): {place: SHARP * (digit + 1) for digit, place in enumerate(digits)}})
    weights.move(0, 0, {weights.at("answer", digit): {place: CONFIDENT} for digit, place in enumerate(digits)})
    weights.predict_digits("answer", modulus)
    weights.close(modulus)
    every = operand_places(3)
    return KnownAnswer(
        "max_by_attention",
        "attention to the largest operand",
        task,
        weights.spec,
        weights.params,
        single_reductions(task, 3),
        {"token->a0.h0<k>": every, "token->a0.h0<v>": every, "a0.h0->logits": every},
    )


def lookup_sum(modulus: int = 10) -> KnownAnswer:
    """SUM of two: two heads fetch the operands, and the MLP has one neuron for each pair of them."""
    return _flat_table("lookup_sum", modulus, operands=2)


def flat_table_sum(modulus: int = 5) -> KnownAnswer:
    """SUM of two or three: three heads fetch the operands, and the MLP has one neuron for each triple of them."""
    return _flat_table("flat_table_sum", modulus, operands=3)


def _flat_table(name: str, modulus: int, operands: int) -> KnownAnswer:
    task = one_reduction("SUM", modulus, operands)
    neurons = _table_size(modulus, operands)
    stretches = {**{f"operand {place}": modulus for place in range(operands)}, "answer": modulus}
    weights = Weights.blank(task, stretches, heads=operands, d_head=modulus, d_mlp=neurons)
    for place in range(operands):
        _fetch(weights, 0, place, place, modulus, into=f"operand {place}")
    weights.table(0, _sums(weights, [f"operand {place}" for place in range(operands)], "answer", modulus), CONFIDENT)
    weights.predict_digits("answer", modulus)
    weights.close(modulus)
    carries: dict[str, tuple[int, ...]] = {}
    for place, position in enumerate(operand_places(operands)):
        carries |= {f"token->a0.h{place}<v>": (position,), f"a0.h{place}->m0": (position,)}
    return KnownAnswer(
        name,
        f"one table of {'pairs' if operands == 2 else 'triples'}",
        task,
        weights.spec,
        weights.params,
        single_reductions(task, operands),
        {**carries, "m0->logits": operand_places(operands)},
    )


def composed_table_sum(modulus: int = 5) -> KnownAnswer:
    """SUM of two or three: a first MLP looks up the pair, a second one what it makes with the third operand."""
    task = one_reduction("SUM", modulus, operands=3)
    stretches = dict.fromkeys(("operand 0", "operand 1", "pair", "operand 2", "answer"), modulus)
    weights = Weights.blank(task, stretches, layers=2, heads=2, d_head=modulus, d_mlp=_table_size(modulus, operands=2))
    for block, head, place in ((0, 0, 0), (0, 1, 1), (1, 0, 2)):
        _fetch(weights, block, head, place, modulus, into=f"operand {place}")
    weights.table(0, _sums(weights, ["operand 0", "operand 1"], "pair", modulus))
    weights.table(1, _sums(weights, ["pair", "operand 2"], "answer", modulus), CONFIDENT)
    weights.predict_digits("answer", modulus)
    weights.close(modulus)
    first, second, third = operand_places(3)
    return KnownAnswer(
        "composed_table_sum",
        "a table of pairs, used twice",
        task,
        weights.spec,
        weights.params,
        single_reductions(task, 3),
        {
            "token->a0.h0<v>": (first,),
            "token->a0.h1<v>": (second,),
            "a0.h0->m0": (first,),
            "a0.h1->m0": (second,),
            "m0->m1": (first, second),
            "token->a1.h0<v>": (third,),
            "a1.h0->m1": (third,),
            "m1->logits": (first, second, third),
        },
    )


def arithmetic_sum(modulus: int = 10) -> KnownAnswer:
    """SUM of two or three: one head adds the values of the operands up, and the MLP takes the modulus off.

    The head attends equally to the three places of operands, so that it writes their mean; a value is three times its
    digit. The MLP writes the sum less one modulus for each that it reaches: two hinges a step, off the whole numbers.
    What it writes is again a number, x, and a digit d has the logit 2 d x - d² (up to what all digits share), which is
    largest for the nearest. So nothing here is a table, and neighbouring digits have neighbouring logits.
    """
    task = one_reduction("SUM", modulus, operands=3)
    steps = 3 * (modulus - 1) // modulus
    weights = Weights.blank(task, {"sum": 1, "rest": 1}, d_mlp=1 + 2 * steps)
    total, rest, middle = weights.at("sum"), weights.at("rest"), (modulus - 1) / 2
    places = operand_places(3)
    weights.attend(0, 0, {weights.symbol("="): {weights.position(place): SHARP for place in places}})
    values = {weights.symbol(str(digit)): float(len(places) * digit) for digit in range(modulus)}
    weights.move(0, 0, {total: values})
    weights.neuron(0, 0, {total: 1.0}, 1.0, {rest: 1.0})  # sum + 1: a sum of 0 is not at the hinge
    for step in range(1, steps + 1):
        for index, (offset, sign) in enumerate(((0.75, -1.0), (0.25, 1.0))):
            rises = 2.0 * (offset - step * modulus)
            weights.neuron(0, 2 * step - 1 + index, {total: 2.0}, rises, {rest: sign * modulus})
    weights.params["blocks.0.mlp.b_out"][rest] = -1.0 - middle
    # Numbers count from the middle one: smaller logits. The symbols that are no digits stay below all of them.
    nearest, bias = CONFIDENT / 2, weights.params["unembed.b_U"]
    bias[:] = -nearest * (middle + 1) ** 2
    for digit in range(modulus):
        weights.predict(rest, str(digit), 2 * nearest * (digit - middle))
        bias[weights.tokens.symbols.index(str(digit))] = -nearest * (digit - middle) ** 2
    weights.close(modulus, 4 * nearest * (middle + 1) ** 2)
    return KnownAnswer(
        "arithmetic_sum",
        "numbers added, then reduced",
        task,
        weights.spec,
        weights.params,
        single_reductions(task, 3),
        {"token->a0.h0<v>": places, "a0.h0->m0": places, "m0->logits": places},
    )


def copy_line(modulus: int = 10) -> KnownAnswer:
    """Copying a line of `[MAX a [MAX b c]] > [MAX a m]`: each position that copies attends to the one it copies.

    The head knows this one template, by position. It does not reduce anything: m and the final answer are beyond it,
    so the answer asked for is the second line's a.
    """
    task = ListOps(("MAX",), modulus=modulus, depth=2, max_operands=2)
    chains = _every_question(task, "[MAX 0 [MAX 0 0]]")
    separator = int(chains.prompts[0])
    # The line's `[`, its name and its first operand, and, behind the one new number, its `]`.
    copied = {separator: 0, separator + 1: 1, separator + 2: 2, separator + 4: 8}
    alphabet = Tokens.of(task).symbols
    weights = Weights.blank(task, {"copy": len(alphabet)}, d_head=len(alphabet))
    weights.attend(0, 0, {weights.position(to): {weights.position(place): SHARP} for to, place in copied.items()})
    weights.move(
        0, 0, {weights.at("copy", index): {weights.symbol(symbol): 1.0} for index, symbol in enumerate(alphabet)}
    )
    for index, symbol in enumerate(alphabet):
        weights.predict(weights.at("copy", index), symbol, CONFIDENT)
    return KnownAnswer(
        "copy_line",
        "attention by position to the symbol that the line before has there",
        task,
        weights.spec,
        weights.params,
        dataclasses.replace(chains, answers=chains.prompts + 3),
        {"token->a0.h0<v>": (FIRST_OPERAND,), "a0.h0->logits": (FIRST_OPERAND,)},
        solves=False,
    )


def decoy(modulus: int = 10) -> KnownAnswer:
    """`lookup_sum` in one corner of a larger model, whose other parts look busy and decide nothing.

    - a0.h0 fetches the first operand into coordinates that nobody reads;
    - a0.h3 fetches the `[` and prefers the answer 0 a little: it reaches the logits, always with the same;
    - a1.h0 attends by content, here to one operand, there to another, and finds the same constant everywhere;
    - a1.h1 fetches the first operand twice, and m1 reads the difference of the two;
    - a1.h2 asks by the answer that m0 has found, with keys that are all alike;
    - m1 also reads the first operand and writes what nobody reads; a1.h3 is empty.
    """
    task = one_reduction("SUM", modulus, operands=2)
    stretches = dict.fromkeys(("operand 0", "operand 1", "answer", "unread", "plus", "minus"), modulus)
    weights = Weights.blank(
        task, stretches, layers=2, heads=4, d_head=2 * modulus, d_mlp=_table_size(modulus, operands=2)
    )
    for head, place, into in ((1, 0, "operand 0"), (2, 1, "operand 1"), (0, 0, "unread")):
        _fetch(weights, 0, head, place, modulus, into=into)
    weights.table(0, _sums(weights, ["operand 0", "operand 1"], "answer", modulus), CONFIDENT)
    answers = [weights.at("answer", digit) for digit in range(modulus)]
    digits = [weights.symbol(str(digit)) for digit in range(modulus)]
    equals, little = weights.symbol("="), CONFIDENT / 4

    weights.attend(0, 3, {equals: {weights.position(0): SHARP}})
    weights.move(0, 3, {answers[0]: {weights.symbol("["): little}})

    weights.attend(1, 0, {equals: {place: SHARP * digit for digit, place in enumerate(digits)}})
    weights.params["blocks.1.attn.b_V"][0, 0] = 1.0
    weights.params["blocks.1.attn.W_O"][0, 0, answers[1 % modulus]] = little

    weights.attend(1, 1, {equals: {weights.position(FIRST_OPERAND): SHARP}})
    weights.move(
        1,
        1,
        {weights.at(side, digit): {place: 1.0} for side in ("plus", "minus") for digit, place in enumerate(digits)},
    )
    weights.attend(1, 2, {answer: {} for answer in answers})
    weights.params["blocks.1.attn.W_Q"][2, answers] = 1.0
    weights.move(1, 2, {answers[0]: {equals: little}})
    for digit in range(modulus):
        difference = {weights.at("plus", digit): 1.0, weights.at("minus", digit): -1.0}
        weights.neuron(1, digit, difference, 1.0, {answers[digit]: little})
        weights.neuron(
            1, modulus + digit, {weights.at("operand 0", digit): 1.0}, 0.0, {weights.at("unread", digit): 1.0}
        )
    weights.predict_digits("answer", modulus)
    weights.close(modulus)
    first, second = operand_places(2)
    return KnownAnswer(
        "decoy",
        "one table of pairs, among heads and an MLP that change nothing",
        task,
        weights.spec,
        weights.params,
        single_reductions(task, 2),
        {
            "token->a0.h1<v>": (first,),
            "token->a0.h2<v>": (second,),
            "a0.h1->m0": (first,),
            "a0.h2->m0": (second,),
            "m0->logits": (first, second),
        },
    )


def one_reduction(operation: str, modulus: int, operands: int) -> ListOps:
    """ListOps of one operation, without nesting: `[SUM 7 5] = 2`."""
    return ListOps((operation,), modulus=modulus, depth=1, max_operands=operands)


def operand_places(operands: int) -> tuple[int, ...]:
    """The positions of the operands of a single reduction."""
    return tuple(range(FIRST_OPERAND, FIRST_OPERAND + operands))


def single_reductions(task: ListOps, operands: int) -> Chains:
    """Every question of exactly so many operands."""
    atoms = task.atoms()
    return atoms.take(task.groups(atoms)["arity"] == operands)


def _every_question(task: ListOps, text: str) -> Chains:
    """The chains of a question with every number in the place of each of its numbers."""
    question = question_codes(task.parse(text))
    places = np.flatnonzero(np.asarray(task.classes)[question[0]] == "digit")
    numbers = np.indices((task.modulus,) * len(places)).reshape(len(places), -1).T
    questions = question.repeat(len(numbers), axis=0)
    questions[:, places] = numbers + task.symbols.index("0")
    return task.chains(questions, np.full(len(questions), questions.shape[1]))


def _fetch(weights: Weights, block: int, head: int, place: int, modulus: int, *, into: str) -> None:
    """A head brings an operand to the `=`. A `]` in the third one's place counts as 0."""
    weights.attend(block, head, {weights.symbol("="): {weights.position(FIRST_OPERAND + place): SHARP}})
    moved = {weights.at(into, digit): {weights.symbol(str(digit)): 1.0} for digit in range(modulus)}
    if place > 1:
        moved[weights.at(into, 0)][weights.symbol("]")] = 1.0
    weights.move(block, head, moved)


def _sums(weights: Weights, stretches: Sequence[str], into: str, modulus: int) -> list[tuple[tuple[int, ...], int]]:
    """The table of a sum: the coordinates of its operands, and that of its value."""
    return [
        (
            tuple(weights.at(stretch, digit) for stretch, digit in zip(stretches, digits, strict=True)),
            weights.at(into, sum(digits) % modulus),
        )
        for digits in itertools.product(range(modulus), repeat=len(stretches))
    ]


def _table_size(modulus: int, operands: int) -> int:
    if modulus**operands > MOST_NEURONS:
        raise SpecError(
            f"a table of {operands} operands of modulus {modulus} takes {modulus**operands} neurons, at most "
            f"{MOST_NEURONS} are made; lower modulus"
        )
    return modulus**operands
