"""From an address to what is shown: the state completed, what each model thinks in it, and what an action makes of it.

Nothing here knows of a page. Everything that a browser may say is checked here or in `State`; a KCInterpError is a
message for the reader, who keeps the page as it was.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from kc_interp.errors import DataError, ExpressionError, KCInterpError, SpecError
from kc_interp.explorer import questions
from kc_interp.explorer.models import Models
from kc_interp.explorer.state import QUESTION_LIMIT, Cut, State
from kc_interp.explorer.thinking import Thinker
from kc_interp.explorer.views.panel import Look

MOST_PAST = 60
"""Steps that can be undone."""
MOST_PAST_CHARACTERS = 100_000
"""Of their addresses together: the page sends them with every action."""


@dataclass(frozen=True)
class Side:
    """One model's half of the page: what it thinks, or why there is nothing to see.

    With a look and a fault, what is cut could not be cut: the thought is the untouched one.
    """

    name: str
    look: Look | None
    fault: str = ""


class Explorer:
    """The models and their questions, behind the page."""

    def __init__(self, models: Models, first: Sequence[str] = ()) -> None:
        """`first` are the models shown when an address names none; without any, that is the start page."""
        self.models, self.first = models, tuple(first)[:2]

    def state(self, address: object) -> State:
        """The state of an address, with what it leaves out: models, a question, a second expression that fits it.

        Raises SpecError on what is no address of ours.
        """
        if address is not None and not isinstance(address, str):
            raise SpecError("found something else where an address is wanted")
        return self.completed(State.parse(address or "", self.models.names))

    def completed(self, state: State) -> State:
        """Nothing is left open that a reader would have to fill in first."""
        state = dataclasses.replace(state, models=state.models or self.first)
        count = len(state.models)
        if count < 2:
            cuts = tuple(cut for cut in state.cuts if cut.model < count)
            state = dataclasses.replace(state, on="both", cuts=cuts)
        thinkers = self._opened(state)
        if thinkers and not state.question.strip():
            state = dataclasses.replace(state, question=next(iter(questions.examples(thinkers)), ""), twin="")
        if thinkers and not state.twin.strip():
            state = dataclasses.replace(state, twin=questions.twin_of(thinkers, state.question))
        return state

    def _opened(self, state: State) -> list[Thinker]:
        """The models of a state that open; of one that does not, its side says why."""
        found = []
        for name in state.models:
            try:
                found.append(self.models.thinker(name))
            except KCInterpError:
                continue
        return found

    def examples(self, state: State) -> tuple[list[str], list[int]]:
        """Questions to ask these models, and depths of which random ones can be drawn."""
        thinkers = self._opened(state)
        if not thinkers:
            return [], []
        first = thinkers[0]
        key = ("examples", *state.models)
        return first.kept(key, lambda: (questions.examples(thinkers), questions.depths(thinkers)))

    def sides(self, state: State) -> tuple[Side, ...]:
        """What each model thinks."""
        return tuple(self._side(state, index, name) for index, name in enumerate(state.models))

    def _side(self, state: State, index: int, name: str) -> Side:
        try:
            thinker = self.models.thinker(name)
            untouched = thinker.think(state.question, free=state.free)
        except KCInterpError as error:
            return Side(name, None, str(error))
        try:
            cuts = state.cuts_of(index)
            thought = thinker.think(state.question, cuts, twin=state.twin, free=state.free, seed=state.seed)
        except KCInterpError as error:
            return Side(name, Look(state, index, thinker, untouched, untouched, str(error)), str(error))
        return Side(name, Look(state, index, thinker, thought, untouched))

    def faults(self, state: State, text: str) -> list[tuple[str, int | None]]:
        """Why a text is no question for these models: the message, and the character at fault where there is one."""
        if len(text) > QUESTION_LIMIT:
            return [(f"the text has {len(text)} characters; at most {QUESTION_LIMIT} are read", None)]
        found: list[tuple[str, int | None]] = []
        for thinker in self._opened(state):
            try:
                thinker.read(text)
            except ExpressionError as error:
                return [(str(error), error.position)]
            except DataError as error:
                found.append((str(error), None))
        return found

    def act(self, address: object, action: object, past: object) -> tuple[State, list[str]]:
        """The state after an action, and the addresses to go back to.

        Beside those of `State.act`, whose "cut" may also say `how`:

        {"do": "undo"}                  back to what the models thought one step ago; where one looks stays
        {"do": "random", "depth": 2}    a random question of that depth
        {"do": "twin"}                  another second expression that fits

        Raises KCInterpError on an action that says nothing or cannot be done.
        """
        if not isinstance(action, dict):
            raise SpecError("found something else where an action is wanted")
        given = _steps(past)
        if action.get("do") == "undo":
            if not given:
                raise SpecError("there is nothing to undo")
            before, now = self.state(given[-1]), self.state(address)
            before = dataclasses.replace(before, view=now.view, part=now.part, how=now.how)
            if (before.question, before.models) == (now.question, now.models):
                before = dataclasses.replace(before, at=now.at, on=now.on)
            return before, given[:-1]
        state = self.state(address)
        made = self._acted(state, action)
        if _thought_about(made) == _thought_about(state):
            return made, given
        return made, _steps([*given, state.query()])

    def behind(self, address: object, past: object, before: object) -> list[str] | None:
        """The steps that are left to undo when the browser has moved to this address by itself, from the one before.

        What is thought there is no step back from there, and neither is what came after it. None: they are as they
        were. Raises SpecError on what is no address of ours.
        """
        now, given = _thought_about(self.state(address)), _steps(past)
        if self._thought_at(before) == now:
            return None
        return next(
            (given[:index] for index in reversed(range(len(given))) if self._thought_at(given[index]) == now), None
        )

    def _thought_at(self, address: object) -> tuple[Any, ...] | None:
        try:
            return _thought_about(self.state(address)) if isinstance(address, str) else None
        except KCInterpError:
            return None

    def _acted(self, state: State, action: Mapping[str, Any]) -> State:
        do = action.get("do")
        if do == "random":
            return self._asked(state, questions.draw(self._some(state), _depth(action), np.random.default_rng()))
        if do == "twin":
            return self._another_twin(state)
        if do == "cut":
            return self._cut(state, action)
        made = state.act(action, self.models.names)
        if made.question != state.question:
            if not made.question.strip():
                raise SpecError("the expression is empty; type one such as [SUM 1 [SUM 4 3]]")
            self._require_readable(made, made.question)
        if "twin" in action and made.twin != state.twin and made.twin.strip():
            self._require_readable(made, made.twin)
        if made.question != state.question:
            return self._asked(made, made.question, keep_twin="twin" in action)
        return self.completed(made)

    def _asked(self, state: State, question: str, *, keep_twin: bool = False) -> State:
        """Another question; the second expression gives way to one that fits, unless it was chosen just now."""
        if question != state.question:
            state = state.act({"do": "set", "question": question}, self.models.names)
        return self.completed(state if keep_twin else dataclasses.replace(state, twin=""))

    def _another_twin(self, state: State) -> State:
        thinkers = self._some(state)
        for turn in range(1, 12):
            twin = questions.twin_of(thinkers, state.question, turn)
            if twin and twin != state.twin:
                return dataclasses.replace(state, twin=twin)
        raise SpecError("no other second expression with another answer was found; type one")

    def _require_readable(self, state: State, text: str) -> None:
        faults = self.faults(state, text)
        if faults and (faults[0][1] is not None or len(faults) >= len(self._some(state))):
            raise SpecError(faults[0][0])

    def _some(self, state: State) -> list[Thinker]:
        thinkers = self._opened(state)
        if not thinkers:
            raise SpecError("no model is open; choose one first")
        return thinkers

    def _cut(self, state: State, action: Mapping[str, Any]) -> State:
        """A cut, where it can be made: of two models with different parts, in the one that has it.

        Where it stands already it need not be possible any more: then a press restores it.
        """
        how = action.get("how", state.how)
        chosen = state.act({"do": "set", "how": how}, self.models.names)
        plain = {name: action[name] for name in ("do", "what", "position") if name in action}
        made = chosen.act(plain, self.models.names)
        if len(made.cuts) <= len(state.cuts):
            return dataclasses.replace(made, how=state.how)
        added = [cut for cut in made.cuts if cut not in state.cuts]
        faults = {cut: fault for cut in added if (fault := self._fault(state, cut)) is not None}
        if len(faults) == len(added):
            there = [cut for cut in state.cuts if cut.place == added[0].place and cut.model in state.aimed_at()]
            if not there:
                raise next(iter(faults.values()))
            return dataclasses.replace(state, cuts=tuple(cut for cut in state.cuts if cut not in there))
        return dataclasses.replace(made, how=state.how, cuts=tuple(cut for cut in made.cuts if cut not in faults))

    def _fault(self, state: State, cut: Cut) -> KCInterpError | None:
        """Why a cut cannot be made."""
        try:
            thinker = self.models.thinker(state.models[cut.model])
            thinker.think(state.question, [cut], twin=state.twin, free=state.free, seed=state.seed)
        except KCInterpError as error:
            return error
        return None


def _steps(past: object) -> list[str]:
    """The latest of the addresses to go back to: so many, of so many characters together."""
    given = [step for step in past if isinstance(step, str)][-MOST_PAST:] if isinstance(past, list) else []
    size = list(itertools.accumulate(map(len, reversed(given))))
    kept = sum(total <= MOST_PAST_CHARACTERS for total in size)
    return given[len(given) - kept :]


def _thought_about(state: State) -> tuple[Any, ...]:
    """What changes the models' thoughts; the rest says how one looks at them."""
    return state.models, state.question, state.twin, state.free, state.cuts, state.seed


def _depth(action: Mapping[str, Any]) -> int | None:
    depth = action.get("depth")
    if depth is None:
        return None
    if isinstance(depth, bool) or not isinstance(depth, int) or not 1 <= depth <= questions.DEEPEST:
        raise SpecError(f"a depth is a whole number from 1 to {questions.DEEPEST}")
    return depth
