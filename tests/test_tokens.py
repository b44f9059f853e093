"""The vocabulary is a bijection, and the positions of a chain fall into classes and lines as a person would say."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kc_interp.errors import DataError
from kc_interp.tasks.expressions import OPERATIONS
from kc_interp.tasks.listops import ListOps
from kc_interp.tasks.task import Chains
from kc_interp.tokens import Tokens, lines, position_classes
from tests.adding import Adding

JOINT = ListOps()


@given(st.sets(st.sampled_from(OPERATIONS), min_size=1), st.sampled_from(["used", "all"]), st.integers(0, 2**32))
@settings(max_examples=20, deadline=None)
def test_encoding_then_decoding_gives_the_symbols_back(operations: set[str], which: str, seed: int) -> None:
    task = ListOps(tuple(sorted(operations)), depth=3)
    tokens = Tokens.of(task, which)  # type: ignore[arg-type]
    chains = task.sample(20, np.random.default_rng(seed))
    ids = tokens.encode(chains.symbols)
    assert ids.min() >= 0 and ids.max() < len(tokens)
    assert np.array_equal(tokens.decode(ids), chains.symbols)
    assert tokens.knows(chains).all()
    assert [tokens.symbols[token] for token in ids[0]] == [task.symbols[code] for code in chains.symbols[0]]


def test_used_leaves_out_what_the_task_never_writes_and_all_does_not() -> None:
    alone = ListOps(("SUM",))
    used, everything = Tokens.of(alone, "used"), Tokens.of(alone, "all")
    assert used.symbols == ("<end>", "[", "]", ">", "=", "SUM", *map(str, range(10)))
    assert everything.symbols == alone.symbols and everything.codes == tuple(range(21))
    assert used.end == everything.end == 0 and used.classes[5] == "operation"


def test_a_symbol_outside_the_vocabulary_is_refused_by_its_code() -> None:
    tokens = Tokens.of(ListOps(("SUM",)))
    chains = Chains.concatenate([JOINT.parse("[SUM 1 2]"), JOINT.parse("[MAX 1 2]")], end=0)
    assert tokens.knows(chains).tolist() == [True, False]
    with pytest.raises(DataError, match=r"symbol codes \[5\] are not in this vocabulary of 16 \(<end> \["):
        tokens.encode(chains.symbols)
    small = Tokens.of(ListOps(modulus=5))
    with pytest.raises(DataError, match=r"symbol codes \[20\]"):
        small.encode(JOINT.parse("[SUM 1 9]").symbols[:, 3:4])


def test_positions_fall_into_classes_and_lines_by_hand() -> None:
    """The answer is a class of its own, and padding is no end."""
    chains = Chains.concatenate([JOINT.parse("[SUM 1 [MAX 4 3]]"), JOINT.parse("[SUM 1 4]")], end=0)
    letters = {"open": "(", "operation": "f", "digit": "d", "close": ")", "separator": ">", "equals": "=", "end": "."}
    letters |= {"answer": "A", "padding": " "}
    spelled = ["".join(letters[name] for name in row) for row in position_classes(JOINT, chains)]
    assert spelled == ["(fd(fdd))>(fdd)=A.", "(fdd)=A.          "]
    by_line = ["".join("-" if line < 0 else str(line) for line in row) for row in lines(JOINT, chains)]
    assert by_line == ["000000000111111222", "00000111" + "-" * 10]


def test_lines_of_another_task() -> None:
    task = Adding()
    assert lines(task, task.parse("3 + 4 + 1")).tolist() == [[0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2]]
