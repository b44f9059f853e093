"""The checks for plug-in authors pass what keeps its promises and name the one that a broken task or probe breaks."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch

from kc_interp.finding import Figure, Finding, Number, Table
from kc_interp.probe import Subject
from kc_interp.tasks.listops import ListOps
from kc_interp.tasks.task import Chains
from kc_interp.testing import check_probe, check_task, small_subject
from kc_probes.embedding_geometry import EmbeddingGeometry
from tests.adding import Adding

TASKS = {
    "the default": ListOps(),
    "one operation, no nesting": ListOps(("SUM",), depth=1),
    "every setting changed": ListOps(("MAX", "NADD"), (1.0, 2.0), 26, "numpy", 3, 4, 0.4, "equals"),
    "two numbers": ListOps(("SUM", "PROD"), modulus=2),
    "another package's": Adding(),
    "another package's, without lines": Adding(modulus=7, terms=2),
}


@pytest.mark.parametrize("task", TASKS.values(), ids=list(TASKS))
def test_tasks_keep_their_promises(task: Any) -> None:
    check_task(task)


def edited(**changes: Any) -> Callable[[Chains], Chains]:
    return lambda chains: dataclasses.replace(chains, **{n: change(chains) for n, change in changes.items()})


def broken_task(**members: Any) -> type[Adding]:
    """Adding with one promise broken."""
    return dataclass(frozen=True)(type("Broken", (Adding,), {"__annotations__": {}, **members}))


def sampling(edit: Callable[[Chains], Chains]) -> Adding:
    return broken_task(sample=lambda self, count, rng: edit(Adding.sample(self, count, rng)))()


def with_unseeded(self: Adding, count: int, rng: np.random.Generator) -> Chains:
    return Adding.sample(self, count, np.random.default_rng())


def random_answers(self: Adding, count: int, rng: np.random.Generator) -> Chains:
    chains = Adding.sample(self, count, rng)
    chains.symbols[np.arange(count), chains.answers] = rng.integers(4, 14, count)
    return chains


def without_end(chains: Chains) -> Chains:
    return dataclasses.replace(chains, lengths=np.maximum(chains.lengths - 1, 0))


def same_chains(self: Adding, chains: Chains, rng: np.random.Generator) -> Chains:
    return chains


def resampled(self: Adding, chains: Chains, rng: np.random.Generator) -> Chains:
    return self.sample(len(chains), rng)


def in_place(self: Adding, chains: Chains, rng: np.random.Generator) -> Chains:
    fresh = Adding.redraw(self, chains, rng)
    chains.symbols[:] = fresh.symbols
    return fresh


def by_two(self: Adding, chains: Chains, kind: str, rng: np.random.Generator) -> Chains:
    return Adding.redraw(self, chains, rng)


def of_other_length(self: Adding, chains: Chains, kind: str, rng: np.random.Generator) -> Chains:
    return Adding.counterfactual(self, self.sample(len(chains), rng), kind, rng)


def batch_dependent(self: Adding, chains: Chains) -> np.ndarray:
    orbits = Adding.orbits(self, chains)
    return np.where(orbits < 0, -1, orbits + len(chains))


def gap(self: Adding, chains: Chains) -> np.ndarray:
    return Adding.orbits(self, chains)[:, ::-1]


def unseeded_orbits(self: Adding, pairs: int, triples: int, seed: int) -> np.ndarray:
    return np.random.default_rng().permutation(1_000_000)[: pairs + triples]


def swallowing(self: Adding, pairs: int, triples: int, seed: int) -> np.ndarray:
    return np.arange(100) if pairs else np.arange(0)


def raising_value_error(self: Adding, text: str) -> Chains:
    try:
        return Adding.parse(self, text)
    except Exception as error:
        raise ValueError(text) from error


def reading_anything(self: Adding, text: str) -> Chains:
    numbers = [int(word) for word in text.split() if word.isdecimal()]
    return self._chains([numbers if len(numbers) > 1 else [0, 0]])


def other_alphabet(self: Adding) -> Mapping[str, Adding]:
    return {"small": Adding(modulus=5)}


def other_holdout(self: Adding) -> Mapping[str, Adding]:
    class Part(Adding):
        def choose_orbits(self, pairs: int, triples: int, seed: int) -> np.ndarray:
            return Adding.choose_orbits(self, pairs, triples, seed + 1)

    return {"part": Part()}


BROKEN_TASKS: dict[str, tuple[Any, str]] = {
    "not a task": (type("Nothing", (), {})(), "Nothing: lacks symbols, classes, used, max_length"),
    "not a dataclass": (type("Loose", (Adding,), {"__dataclass_params__": None})(), "not a frozen dataclass"),
    "two ends": (broken_task(classes=property(lambda self: ("end",) * 14))(), "14 symbols have the class 'end'"),
    "unknown class": (broken_task(classes=property(lambda self: ("end", *["word"] * 13)))(), r"classes \['word'\]"),
    "too few classes": (broken_task(classes=property(lambda self: ("end",)))(), "1 classes for 14 symbols"),
    "one symbol twice": (broken_task(symbols=property(lambda self: ("<end>", *["1"] * 13)))(), "two symbols are the"),
    "used too short": (broken_task(used=property(lambda self: np.ones(3, dtype=bool)))(), "one boolean for each"),
    "end not used": (broken_task(used=property(lambda self: np.arange(14) > 0))(), "leaves out the end symbol"),
    "plus not used": (broken_task(used=property(lambda self: np.arange(14) != 1))(), "`used` says cannot occur"),
    "too few chains": (sampling(lambda c: c.take(slice(1, None))), "gave 255 chains"),
    "no seed": (broken_task(sample=with_unseeded)(), "sample drew other chains from the same seed"),
    "no end symbol": (sampling(without_end), "must end with the end symbol"),
    "code outside": (sampling(edited(symbols=lambda c: c.symbols + 20)), "outside the alphabet of 14"),
    "longer than said": (broken_task(max_length=property(lambda self: 6))(), "has 12 symbols, max_length is 6"),
    "empty question": (sampling(edited(prompts=lambda c: c.prompts * 0)), "a question is empty"),
    "answer in question": (sampling(edited(answers=lambda c: c.answers * 0)), "not among the symbols"),
    "two chains a question": (broken_task(sample=random_answers)(), "one question has two chains"),
    "redraw does nothing": (broken_task(redraw=same_chains)(), "rejection would never end"),
    "redraw elsewhere": (broken_task(redraw=resampled)(), "redraw changed the length"),
    "redraw in place": (broken_task(redraw=in_place)(), "redraw changed the chains it was given"),
    "ragged groups": (broken_task(groups=lambda self, chains: {"steps": [1]})(), "'steps' has 1 labels for 256"),
    "orbits by batch": (broken_task(orbits=batch_dependent)(), "depend on the chains beside it"),
    "orbits with gaps": (broken_task(orbits=gap)(), "in order, and -1 beyond its last"),
    "atoms of two steps": (broken_task(atoms=lambda self: self._chains([[1, 2, 3]]))(), "more than one step"),
    "an atom twice": (broken_task(atoms=lambda self: self._chains([[1, 2], [1, 2]]))(), "a question occurs twice"),
    "orbits by chance": (broken_task(choose_orbits=unseeded_orbits)(), "chose others from the same seed"),
    "everything held out": (broken_task(choose_orbits=swallowing)(), "cannot be held out: no training item"),
    "twins of two changes": (broken_task(counterfactual=by_two)(), "exactly one symbol"),
    "twins that are none": (
        broken_task(counterfactual=lambda self, chains, kind, rng: chains)(), "no chain has a twin",
    ),
    "twins of other length": (broken_task(counterfactual=of_other_length)(), "other symbol classes than its chain"),
    "parse raises ValueError": (broken_task(parse=raising_value_error)(), "it raised ValueError"),
    "parse reads anything": (broken_task(parse=reading_anything)(), "on what is no question; it read"),
    "format of nothing": (broken_task(format=lambda self, chains: [])(), "no text per chain"),
    "a component of another alphabet": (broken_task(components=other_alphabet)(), "'small' has another alphabet"),
    "a component held out otherwise": (broken_task(components=other_holdout)(), "'part' holds out what the whole"),
}  # fmt: skip


@pytest.mark.parametrize(("task", "message"), BROKEN_TASKS.values(), ids=list(BROKEN_TASKS))
def test_a_broken_task_is_told_its_broken_promise(task: Any, message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        check_task(task)


@pytest.fixture(scope="module")
def subject() -> Subject:
    return small_subject(steps=20)


def test_a_built_in_probe_keeps_its_promises(subject: Subject) -> None:
    found = check_probe(EmbeddingGeometry(permutations=1_000, resamples=20), subject)
    assert found.numbers and found.figures


GOOD = Number("a", "A", 0.5, 0.4, 0.6, n=10, control=0.1, control_says="shuffled")
FIGURE = Figure("bars", "F", "shows", "refuted", {"x": ["a"], "series": [{"name": "s", "y": [1.0]}], "y_title": "y"})


@dataclass(frozen=True)
class Toy:
    """A probe that returns what it is told to."""

    level: float = 0.5

    def run(self, subject: Subject) -> Finding:
        return self.finding(subject)

    def finding(self, subject: Subject) -> Finding:
        return Finding("toy", subject.name, "Toy", "It shows nothing.", numbers=(GOOD,), figures=(FIGURE,))


def returning(**changes: Any) -> Toy:
    def run(self: Toy, subject: Subject) -> Finding:
        return dataclasses.replace(Toy().finding(subject), **changes)

    return dataclass(frozen=True)(type("Broken", (Toy,), {"__annotations__": {}, "run": run}))()


def number(**changes: Any) -> Toy:
    return returning(numbers=(dataclasses.replace(GOOD, **changes),))


def figure(**changes: Any) -> Toy:
    return returning(figures=(dataclasses.replace(FIGURE, **changes),))


def running(run: Callable[[Any, Subject], Any]) -> Toy:
    return dataclass(frozen=True)(type("Broken", (Toy,), {"__annotations__": {}, "run": run}))()


def training_on(self: Toy, subject: Subject) -> Finding:
    subject.checkpoint.params["unembed.b_U"].add_(1.0)
    return self.finding(subject)


def by_chance(self: Toy, subject: Subject) -> Finding:
    value = float(np.random.default_rng().random())
    return dataclasses.replace(self.finding(subject), numbers=(dataclasses.replace(GOOD, value=value),))


BROKEN_PROBES: dict[str, tuple[Any, str]] = {
    "no run": (type("Nothing", (), {})(), "Nothing: has no method `run`"),
    "no dataclass": (type("Loose", (), {"run": lambda self, subject: None})(), "not a frozen dataclass of settings"),
    "no finding": (running(lambda self, subject: {"a": 1}), "run returned dict, no Finding"),
    "a tensor": (figure(data={"x": torch.zeros(2)}), "finding, figures, data, x holds a Tensor"),
    "a key that is no string": (figure(data={"x": {3: 1}}), "the key 3 is no string"),
    "chance": (running(by_chance), "another finding: draw by `subject.rng`"),
    "a changed model": (running(training_on), "changed the model"),
    "no sentence": (returning(sentence=" "), "no title or no sentence"),
    "a failed finding": (returning(status="failed"), "raises ProbeError"),
    "one key twice": (returning(numbers=(GOOD, GOOD)), "two numbers have the key \\['a'\\]"),
    "missing without a reason": (number(value=None), "number 'a' is None, and no `note` says why"),
    "not finite": (number(value=float("nan")), "'a' is not finite"),
    "no interval": (number(low=None), "no interval .* its unit is not 'exact', and no `note` says why"),
    "no n": (number(n=None), "interval over inputs, but not their number n"),
    "an interval upside down": (number(low=1.0), "an interval from 1.0 to 0.6"),
    "no control": (number(control=None, control_says=""), "no control, and neither"),
    "a nameless control": (number(control_says=""), "does not say which"),
    "a ragged table": (returning(tables=(Table("T", ("a", "b"), ((1,),)),)), "table 'T' has 2 columns"),
    "a mute figure": (figure(shows=""), "figure 'F' does not say what it `shows`"),
    "an irrefutable figure": (figure(refuted_by=""), "would refute it"),
    "a figure without data": (figure(data={"x": ["a"]}), "figure 'F' cannot be drawn: .*'series'"),
}


@pytest.mark.parametrize(("probe", "message"), BROKEN_PROBES.values(), ids=list(BROKEN_PROBES))
def test_a_broken_probe_is_told_its_broken_promise(probe: Any, message: str, subject: Subject) -> None:
    before = {name: value.clone() for name, value in subject.checkpoint.params.items()}
    with pytest.raises(AssertionError, match=message):
        check_probe(probe, subject)
    for name, value in before.items():
        subject.checkpoint.params[name].copy_(value)


def test_the_toy_that_the_broken_ones_are_made_from_is_whole(subject: Subject) -> None:
    check_probe(Toy(), subject)
    check_probe(number(unit="exact", low=None, high=None, n=None), subject)
    check_probe(number(value=None, note="nothing to measure"), subject)


def test_nothing_may_be_claimed_of_a_model_that_has_not_learned(subject: Subject) -> None:
    with pytest.raises(AssertionError, match="must be 'unlearned'"):
        check_probe(Toy(), dataclasses.replace(subject, learned=False))
    check_probe(returning(status="unlearned"), dataclasses.replace(subject, learned=False))
