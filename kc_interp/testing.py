"""For authors of tasks and probes: do they keep what the two contracts promise? An AssertionError says which one broke.

    def test_my_task():
        check_task(MyTask())

    def test_my_probe():
        check_probe(MyProbe(), small_subject())

The contracts are `kc_interp.tasks.task.Task`, `kc_interp.probe.Probe` and `kc_interp.finding`. What evaluation rests on
is checked hardest: a chain is a function of its question, a seed decides what is drawn, and held-out items exist.

And does a method find what is there? `known_answer("lookup_sum")` is a model whose circuit is known; all of them, by
name, are in `CONSTRUCTED` (weights written by hand) and `TRAINED` (with edges that cannot exist):

    def test_my_method_finds_the_circuit():
        known = known_answer("lookup_sum")
        base, source = known.streams(known.pairs(64, np.random.default_rng(0)))
        assert set(my_method(base, source)) == set(known.truth)
"""

from __future__ import annotations

import dataclasses
import json
import math
import typing
from collections.abc import Mapping
from typing import Any, NoReturn

import numpy as np
import torch

from kc_interp.data import Split
from kc_interp.errors import DataError, ExpressionError, KCInterpError
from kc_interp.finding import Figure, Finding, Number, Table, to_plain
from kc_interp.known_answers import CONSTRUCTED as CONSTRUCTED
from kc_interp.known_answers import TRAINED as TRAINED
from kc_interp.known_answers import KnownAnswer as KnownAnswer
from kc_interp.known_answers import known_answer as known_answer
from kc_interp.probe import Probe, Subject
from kc_interp.spec import DataSpec, ModelSpec, RunSpec, TaskSpec, TrainSpec, from_plain
from kc_interp.tasks.task import Chains, SymbolClass, Task
from kc_interp.train import Ensemble

SAMPLE = 256
"""How many chains each check draws."""

_HOLD_OUTS = ((2, 10), (1, 1), (1, 0))
_NO_QUESTION = "\x07 this is no question"


def small_subject(task: TaskSpec | None = None, *, steps: int = 200, seed: int = 0) -> Subject:
    """A small model to try a probe on, trained for some seconds (on MAX and SUM of up to three digits, if not said).

    It is marked as having learned its task, whether it has or not.
    """
    spec = RunSpec(
        task or TaskSpec("listops", {"operations": ["MAX", "SUM"], "depth": 1}),
        DataSpec(n_train=2_000, test_fraction=0.2, holdout_pairs=1, holdout_triples=1),
        ModelSpec(d_model=32, n_layers=2, n_heads=2),
        TrainSpec(steps=steps, batch_size=32),
        seed=seed,
    )
    ensemble = Ensemble([spec])
    for _ in range(steps):
        ensemble.step()
    ensemble.record()
    return Subject("small", ensemble.checkpoints()[0], seed=seed, learned=True)


def _promise(kept: object, who: object, sentence: str) -> None:
    if not kept:
        _break(who, sentence)


def _break(who: object, sentence: str) -> NoReturn:
    name = who if isinstance(who, str) else type(who).__name__
    raise AssertionError(f"{name}: {sentence}")


def _check_settings(plugin: Any) -> None:
    """A plug-in is a frozen dataclass that can be read back from the plain data of its settings."""
    params = getattr(type(plugin), "__dataclass_params__", None)
    _promise(params is not None and params.frozen, plugin, "is not a frozen dataclass of settings")
    plain = to_plain(plugin)
    try:
        json.dumps(plain, allow_nan=False)
        back = from_plain(type(plugin), plain)
    except (TypeError, ValueError, KCInterpError) as error:
        _break(plugin, f"its settings {plain} are not plain data that it can be made from again: {error}")
    _promise(back == plugin, plugin, f"made again from its settings {plain} it is another one: {back}")


# A task


def check_task(task: object, *, seed: int = 0) -> None:
    """Draw from a task and check what `kc_interp.tasks.task.Task` promises. Raises AssertionError."""
    missing = [name for name in vars(Task) if not name.startswith("_") and not hasattr(task, name)]
    if not isinstance(task, Task):
        _break(task, f"lacks {', '.join(missing)}")
    _check_settings(task)
    _check_alphabet(task)
    chains = task.sample(SAMPLE, np.random.default_rng(seed))
    again = task.sample(SAMPLE, np.random.default_rng(seed))
    _promise(len(chains) == SAMPLE, task, f"sample({SAMPLE}) gave {len(chains)} chains")
    _promise(_equal(chains, again), task, "sample drew other chains from the same seed")
    _promise(len(task.sample(0, np.random.default_rng(seed))) == 0, task, "sample(0) gave chains")
    written: dict[bytes, bytes] = {}
    _check_chains(task, chains, "sample", written)
    _check_redraw(task, chains, seed, written)
    _check_components(task, seed, written)
    _check_facts(task, chains)
    _check_atoms(task, written)
    _check_hold_outs(task, seed)
    for kind in task.counterfactuals:
        _check_counterfactual(task, chains, kind, seed, written)
    _check_text(task, chains)


def _equal(one: Chains, other: Chains) -> bool:
    return all(np.array_equal(getattr(one, f.name), getattr(other, f.name)) for f in dataclasses.fields(Chains))


def _check_alphabet(task: Task) -> None:
    symbols, classes, used = task.symbols, task.classes, np.asarray(task.used)
    _promise(len(set(symbols)) == len(symbols), task, "two symbols are the same")
    _promise(len(classes) == len(symbols), task, f"{len(classes)} classes for {len(symbols)} symbols")
    unknown = sorted(set(classes) - set(typing.get_args(SymbolClass)))
    _promise(not unknown, task, f"unknown symbol classes {unknown}; known: {', '.join(typing.get_args(SymbolClass))}")
    _promise(classes.count("end") == 1, task, f"{classes.count('end')} symbols have the class 'end'; exactly one must")
    _promise(
        used.shape == (len(symbols),) and used.dtype == bool, task, "`used` does not hold one boolean for each symbol"
    )
    _promise(used[classes.index("end")], task, "`used` leaves out the end symbol, which every chain contains")


def _check_chains(task: Task, chains: Chains, where: str, written: dict[bytes, bytes]) -> None:
    """Well-formed chains; `written` holds the chain of every question seen so far."""
    symbols, lengths, prompts, answers = chains.symbols, chains.lengths, chains.prompts, chains.answers
    end, place = task.classes.index("end"), np.arange(chains.symbols.shape[1])
    shapes = {part.shape for part in (lengths, prompts, answers)}
    _promise(shapes == {(len(symbols),)}, task, f"{where}: lengths, prompts and answers do not have one entry a chain")
    _promise(
        all(np.issubdtype(getattr(chains, f.name).dtype, np.integer) for f in dataclasses.fields(Chains)),
        task,
        f"{where}: chains hold numbers that are not integers",
    )
    if not len(chains):
        return
    inside = (symbols >= 0) & (symbols < len(task.symbols))
    _promise(inside.all(), task, f"{where}: a symbol code lies outside the alphabet of {len(task.symbols)}")
    _promise(task.used[symbols].all(), task, f"{where}: a chain contains a symbol that `used` says cannot occur")
    _promise(
        (lengths <= symbols.shape[1]).all() and np.array_equal(symbols == end, place >= lengths[:, None] - 1),
        task,
        f"{where}: a chain must end with the end symbol at lengths - 1, padded with it, and hold it nowhere else",
    )
    _promise(
        (lengths <= task.max_length).all(),
        task,
        f"{where}: a chain has {lengths.max()} symbols, max_length is {task.max_length}",
    )
    _promise((prompts >= 1).all(), task, f"{where}: a question is empty")
    _promise(
        ((prompts <= answers) & (answers < lengths - 1)).all(),
        task,
        f"{where}: an answer is not among the symbols that the model must write, between the question and the end",
    )
    for row, length, prompt in zip(symbols, lengths, prompts, strict=True):
        question, chain = row[:prompt].astype(np.int64).tobytes(), row[:length].astype(np.int64).tobytes()
        _promise(
            written.setdefault(question, chain) == chain,
            task,
            f"{where}: one question has two chains, so that the exact chain is no measure of success; the second is "
            + " ".join(task.symbols[code] for code in row[:length]),
        )


def _check_redraw(task: Task, chains: Chains, seed: int, written: dict[bytes, bytes]) -> None:
    before = dataclasses.replace(chains, symbols=chains.symbols.copy())
    fresh = task.redraw(chains, np.random.default_rng(seed + 1))
    _promise(_equal(before, chains), task, "redraw changed the chains it was given")
    _check_chains(task, fresh, "redraw", written)
    _promise(
        np.array_equal(fresh.lengths, chains.lengths) and np.array_equal(fresh.prompts, chains.prompts),
        task,
        "redraw changed the length of a chain or of its question, so that hold-outs would change the lengths drawn",
    )
    _promise(
        _equal(fresh, task.redraw(chains, np.random.default_rng(seed + 1))),
        task,
        "redraw drew other chains from the same seed",
    )
    _promise(
        not np.array_equal(fresh.symbols, chains.symbols), task, "redraw changed no chain: rejection would never end"
    )


def _check_components(task: Task, seed: int, written: dict[bytes, bytes]) -> None:
    for name, part in task.components().items():
        _promise(isinstance(part, Task), task, f"its component {name!r} is no Task")
        _promise(
            (part.symbols, part.classes) == (task.symbols, task.classes),
            task,
            f"its component {name!r} has another alphabet, so that their symbol codes do not agree",
        )
        _check_chains(task, part.sample(SAMPLE, np.random.default_rng(seed)), f"component {name!r}", written)


def _check_facts(task: Task, chains: Chains) -> None:
    for name, labels in task.groups(chains).items():
        _promise(
            len(labels) == len(chains), task, f"groups: {name!r} has {len(labels)} labels for {len(chains)} chains"
        )
    orbits = task.orbits(chains)
    _promise(
        orbits.ndim == 2 and len(orbits) == len(chains) and np.issubdtype(orbits.dtype, np.integer),
        task,
        "orbits does not give a row of integers for each chain",
    )
    steps = (orbits >= 0).sum(axis=1)
    _promise(
        np.array_equal(orbits >= 0, np.arange(orbits.shape[1]) < steps[:, None]) and (orbits >= -1).all(),
        task,
        "orbits must be 0 or more for each step of a chain, in order, and -1 beyond its last",
    )
    alone = task.orbits(chains.take(slice(0, 1)))[0]
    _promise(
        np.array_equal(alone[alone >= 0], orbits[0][orbits[0] >= 0]),
        task,
        "the orbits of a chain depend on the chains beside it",
    )


def _check_atoms(task: Task, written: dict[bytes, bytes]) -> None:
    atoms = task.atoms()
    _check_chains(task, atoms, "atoms", written)
    if not len(atoms):
        return
    asked = {row[:prompt].tobytes() for row, prompt in zip(atoms.symbols, atoms.prompts, strict=True)}
    _promise(len(asked) == len(atoms), task, "atoms: a question occurs twice")
    _promise(((task.orbits(atoms) >= 0).sum(axis=1) <= 1).all(), task, "atoms: a chain takes more than one step")


def _check_hold_outs(task: Task, seed: int) -> None:
    _promise(not len(task.choose_orbits(0, 0, seed)), task, "choose_orbits(0, 0) holds something out")
    pairs, triples = 0, 0
    for pairs, triples in (*_HOLD_OUTS, (0, 0)):
        try:
            chosen = task.choose_orbits(pairs, triples, seed)
            break
        except DataError:
            continue  # a small task may not have so many to hold out
    _promise(
        np.array_equal(np.unique(chosen), np.unique(task.choose_orbits(pairs, triples, seed))),
        task,
        "choose_orbits chose others from the same seed",
    )
    for name, part in task.components().items():
        _promise(
            np.isin(part.choose_orbits(pairs, triples, seed), chosen).all(),
            task,
            f"choose_orbits: the component {name!r} holds out what the whole does not, so that arms differ in more "
            "than their mixture",
        )
    spec = DataSpec(test_fraction=0.5, holdout_pairs=pairs, holdout_triples=triples, split_seed=seed)
    try:
        split = Split.of(task, spec)
        for test in (False, True):
            split.draw(task, SAMPLE, np.random.default_rng(seed), test=test)
    except DataError as error:
        _break(task, f"half of its questions cannot be held out: {error}")


def _check_counterfactual(task: Task, chains: Chains, kind: str, seed: int, written: dict[bytes, bytes]) -> None:
    where = f"counterfactual {kind!r}"
    twins = task.counterfactual(chains, kind, np.random.default_rng(seed + 2))
    _check_chains(task, twins, where, written)
    _promise(
        _equal(twins, task.counterfactual(chains, kind, np.random.default_rng(seed + 2))),
        task,
        f"{where}: other twins from the same seed",
    )
    classes = np.asarray(task.classes, dtype=object)
    _promise(
        twins.symbols.shape == chains.symbols.shape
        and np.array_equal(classes[twins.symbols], classes[chains.symbols])
        and np.array_equal(twins.prompts, chains.prompts)
        and np.array_equal(twins.answers, chains.answers),
        task,
        f"{where}: a twin has other symbol classes than its chain",
    )
    differs = twins.symbols != chains.symbols
    changed = differs.any(axis=1)
    inside = np.arange(differs.shape[1]) < chains.prompts[:, None]
    _promise(changed.any(), task, f"{where}: no chain has a twin; leave this kind out of `counterfactuals`")
    _promise(
        np.array_equal((differs & inside).sum(axis=1), changed),
        task,
        f"{where}: a twin's question must differ in exactly one symbol (or the twin be the chain itself)",
    )
    _promise(
        (twins.answer_symbols() != chains.answer_symbols())[changed].all(),
        task,
        f"{where}: a twin has the answer of its chain",
    )


def _check_text(task: Task, chains: Chains) -> None:
    some = chains.take(slice(0, 20))
    texts = task.format(some)
    _promise(
        len(texts) == len(some) and all(isinstance(text, str) for text in texts), task, "format gives no text per chain"
    )
    for row, text in enumerate(texts):
        question = " ".join(task.symbols[code] for code in some.symbols[row, : some.prompts[row]])
        try:
            parsed = task.parse(question)
        except ExpressionError as error:
            _break(task, f"parse refuses the question {question!r}, its own symbols with spaces between: {error}")
        _promise(
            _equal(parsed, some.take(slice(row, row + 1))),
            task,
            f"parse({question!r}) is {task.format(parsed)[0]!r}, its chain was {text!r}",
        )
    try:
        task.parse(_NO_QUESTION)
    except ExpressionError:
        return
    except Exception as error:
        _break(task, f"parse must raise ExpressionError on what is no question; it raised {type(error).__name__}")
    _break(task, f"parse must raise ExpressionError on what is no question; it read {_NO_QUESTION!r}")


# A probe


def check_probe(probe: object, subject: Subject) -> Finding:
    """Run a probe twice and check what `kc_interp.finding` promises; returns its finding. Raises AssertionError."""
    if not isinstance(probe, Probe):
        _break(probe, "has no method `run`")
    _check_settings(probe)
    before = {name: value.clone() for name, value in subject.checkpoint.params.items()}
    found = probe.run(subject)
    _promise(isinstance(found, Finding), probe, f"run returned {type(found).__name__}, no Finding")
    _check_plain(probe, dataclasses.asdict(found), "the finding")
    again = to_plain(dataclasses.replace(probe.run(subject), seconds=found.seconds))
    _promise(again == to_plain(found), probe, "the same subject and seed gave another finding: draw by `subject.rng`")
    same = all(torch.equal(value, subject.checkpoint.params[name]) for name, value in before.items())
    _promise(same, probe, "run changed the model, which other probes look at too")
    _check_finding(probe, found, subject)
    return found


def _check_plain(who: object, value: Any, where: str) -> None:
    if isinstance(value, Mapping):
        for key, item in value.items():
            _promise(isinstance(key, str), who, f"{where}: the key {key!r} is no string")
            _check_plain(who, item, f"{where}, {key}")
    elif isinstance(value, (list, tuple)):
        for item in value:
            _check_plain(who, item, where)
    else:
        plain = value is None or isinstance(value, (str, bool, int, float))
        _promise(plain, who, f"{where} holds a {type(value).__name__}; a finding is plain data (use .tolist())")


def _check_finding(who: object, found: Finding, subject: Subject) -> None:
    _promise(found.title.strip() and found.sentence.strip(), who, "the finding has no title or no sentence")
    _promise(
        found.status != "failed", who, "a probe that cannot answer raises ProbeError, it returns no failed finding"
    )
    _promise(
        subject.learned is not False or found.status == "unlearned",
        who,
        "this subject has not learned its task: the finding's status must be 'unlearned', since nothing is claimed",
    )
    keys = [number.key for number in found.numbers]
    twice = sorted({key for key in keys if keys.count(key) > 1})
    _promise(not twice, who, f"two numbers have the key {twice}")
    for number in found.numbers:
        _check_number(who, number)
    for table in found.tables:
        _check_table(who, table)
    for figure in found.figures:
        _check_figure(who, figure)


def _check_number(who: object, number: Number) -> None:
    where = f"number {number.key!r}"
    if number.value is None:
        _promise(number.note.strip(), who, f"{where} is None, and no `note` says why")
        return
    bounds = (number.low, number.high)
    stated = [value for value in (number.value, *bounds, number.control) if value is not None]
    _promise(
        all(map(math.isfinite, stated)), who, f"{where} is not finite: use None for the value, with a `note` saying why"
    )
    if number.unit != "exact":
        says_why = bounds == (None, None) and number.note.strip()
        _promise(
            None not in bounds or says_why,
            who,
            f"{where} has no interval (low, high), its unit is not 'exact', and no `note` says why",
        )
        _promise(number.n, who, f"{where} has an interval over {number.unit}s, but not their number n")
    if number.low is not None and number.high is not None:
        _promise(number.low <= number.high, who, f"{where} has an interval from {number.low} to {number.high}")
    if number.control is None:
        said = (number.control_says + number.note).strip()
        _promise(said, who, f"{where} has no control, and neither `control_says` nor `note` says why")
    else:
        _promise(number.control_says.strip(), who, f"{where} has a control, but `control_says` does not say which")


def _check_table(who: object, table: Table) -> None:
    ragged = [row for row in table.rows if len(row) != len(table.columns)]
    _promise(not ragged, who, f"table {table.title!r} has {len(table.columns)} columns, but a row {ragged[:1]}")


def _check_figure(who: object, figure: Figure) -> None:
    from kc_interp.plots import DRAWN, draw

    _promise(figure.shows.strip(), who, f"figure {figure.title!r} does not say what it `shows`")
    _promise(
        figure.refuted_by.strip(), who, f"figure {figure.title!r} does not say what would refute it (`refuted_by`)"
    )
    if figure.kind in DRAWN:
        try:
            draw(figure)
        except (KCInterpError, ValueError, TypeError, IndexError) as error:
            _break(who, f"figure {figure.title!r} cannot be drawn: {error}")
