"""The type checker of the tests: beartype, taking an int where a float is asked for, as type checkers do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from beartype import BeartypeConf, beartype

_check = beartype(conf=BeartypeConf(is_pep484_tower=True))
_ANSWER_THEMSELVES = ("kc_interp.spec", "kc_interp.tasks.listops")


def checked(function: Callable[..., Any]) -> Callable[..., Any]:
    """Check everything but the constructors of settings, which answer a wrong value with a message of their own."""
    if function.__name__ == "__init__" and function.__module__ in _ANSWER_THEMSELVES:
        return function
    return _check(function)
