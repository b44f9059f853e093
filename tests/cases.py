"""One case table of ListOps, worked by hand: the parser, the evaluator, the vectorised reduction and the files read it."""

from __future__ import annotations

from dataclasses import dataclass

from kc_interp.tasks.expressions import Median


@dataclass(frozen=True)
class Case:
    """A question with its value, nesting and reduction lines (the last is the answer), worked out with pen and paper."""

    text: str
    value: int
    depth: int
    lines: tuple[str, ...]
    modulus: int = 10
    median: Median = "upper"


CASES = (
    Case("[MAX 2 9]", 9, 1, ("9",)),
    Case("[MIN 4 7]", 4, 1, ("4",)),
    Case("[MIN 7 4 5]", 4, 1, ("4",)),
    Case("[SUM 7 5]", 2, 1, ("2",)),
    Case("[SUM 9 9 9]", 7, 1, ("7",)),
    Case("[SUM 9 9 9]", 1, 1, ("1",), modulus=26),
    Case("[PROD 7 8]", 6, 1, ("6",)),
    Case("[PROD 9 9 9]", 9, 1, ("9",)),
    Case("[PROD 0 9 9]", 0, 1, ("0",)),
    Case("[PROD 99 99 99]", 99, 1, ("99",), modulus=100),
    Case("[NADD 3 5]", 8, 1, ("8",)),
    Case("[NADD 3 5 4]", 2, 1, ("2",)),
    Case("[NADD 1 2 3 4]", 8, 1, ("8",)),
    Case("[NADD 0 1 0]", 25, 1, ("25",), modulus=26),
    Case("[MED 4 9]", 9, 1, ("9",)),
    Case("[MED 4 9]", 6, 1, ("6",), median="numpy"),
    Case("[MED 9 0 4]", 4, 1, ("4",)),
    Case("[MED 9 0 4]", 4, 1, ("4",), median="numpy"),
    Case("[MED 8 1 2 6]", 6, 1, ("6",)),
    Case("[MED 8 1 2 6]", 4, 1, ("4",), median="numpy"),
    Case("[SUM 1 [MAX 4 3]]", 5, 2, ("[SUM 1 4]", "5")),
    Case("[MAX [MIN 2 1] [SUM 5 5 5]]", 5, 2, ("[MAX 1 [SUM 5 5 5]]", "[MAX 1 5]", "5")),
    Case("[MAX 2 9 [MIN 4 7] 0]", 9, 2, ("[MAX 2 9 4 0]", "9")),
    Case("[MAX 7 [MED 0 4]]", 7, 2, ("[MAX 7 4]", "7")),
    Case(
        "[SUM [MAX 1 [MIN 8 9]] 3 [PROD 2 2]]",
        5,
        3,
        ("[SUM [MAX 1 8] 3 [PROD 2 2]]", "[SUM 8 3 [PROD 2 2]]", "[SUM 8 3 4]", "5"),
    ),
    Case(
        "[NADD 12 [SUM [SUM 11 11] 5]]",
        11,
        3,
        ("[NADD 12 [SUM 9 5]]", "[NADD 12 1]", "11"),
        modulus=13,
    ),
)
