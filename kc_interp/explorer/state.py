"""What a view of the explorer depends on, all of it: plain data that lives in the page's address.

    ?model=sum&model=joint&q=[SUM 1 [MAX 4 3]]&cut=0:zero:a0.h1&cut=1:patch:m0@12&view=attention&at=12

The same address shows the same numbers to a colleague. Whatever comes from an address or a click is checked here; what
only a model can know (whether it has such a head) is checked where the model is asked.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, get_args
from urllib.parse import parse_qsl, quote

from kc_interp.errors import SpecError, did_you_mean

How = Literal["zero", "mean", "resample", "patch"]
"""What a cut part carries instead: nothing; the mean of what it carries over questions of the same shape; what it
carries in one such question with another answer; in the second expression."""

View = Literal["attention", "circuit", "patching", "lens", "embedding", "parts", "neurons"]

HOWS: tuple[How, ...] = get_args(How)
VIEWS: tuple[View, ...] = get_args(View)
QUESTION_LIMIT = 400
"""Characters of an expression."""
CUT_LIMIT = 64
ADDRESS_LIMIT = 8_000
POSITION_LIMIT = 10_000

_PART = re.compile(r"[a-z0-9.<>\-]{1,40}")
_CUT = re.compile(rf"([01]):({'|'.join(HOWS)}):({_PART.pattern})(?:@([0-9]{{1,5}}))?")
_T = TypeVar("_T", bound=str)


@dataclass(frozen=True)
class Cut:
    """One intervention: in model 0 or 1 the part `what` carries, at `position` (None: at all), what `how` says.

    `what` is named as in `kc_interp.model.graph`: a writer ("a0.h1", "m0", "token"), an edge ("a0.h1->m0"); and beyond
    it all heads of a block ("a0"), the residual stream that enters a block ("resid1"), or a neuron ("m0.n17").
    """

    model: int
    how: How
    what: str
    position: int | None = None

    def __str__(self) -> str:
        return f"{self.model}:{self.how}:{self.what}" + ("" if self.position is None else f"@{self.position}")

    @classmethod
    def parse(cls, text: str) -> Cut:
        """A cut from its text. Raises SpecError."""
        found = _CUT.fullmatch(text)
        if found is None:
            raise SpecError(
                f"{_shown(text)} is no intervention; one is written as in '0:zero:a0.h1' or '1:patch:m0@12': model, "
                f"how ({', '.join(HOWS)}), part, and the position if not all"
            )
        model, how, what, position = found.groups()
        return cls(int(model), _one_of(how, HOWS, "how"), what, None if position is None else int(position))

    @property
    def place(self) -> tuple[str, int | None]:
        return self.what, self.position


@dataclass(frozen=True)
class State:
    """One view. `models` names one or two of the models that the server knows; `on` says where a click cuts.

    `question` and `twin` are text as typed: a question that does not parse is a state, too, and its fault is shown.
    `at` is the position that all views point to, `part` the part (a head, say); `seed` chooses what `resample` takes.
    """

    models: tuple[str, ...] = ()
    question: str = ""
    twin: str = ""
    free: bool = False
    how: How = "zero"
    on: Literal["both", "0", "1"] = "both"
    cuts: tuple[Cut, ...] = ()
    view: View = "attention"
    at: int | None = None
    part: str = ""
    seed: int = 0

    def cuts_of(self, model: int) -> tuple[Cut, ...]:
        """The interventions in one of the two models, in the order of their making: later ones win."""
        return tuple(cut for cut in self.cuts if cut.model == model)

    def aimed_at(self) -> tuple[int, ...]:
        """The models that the next click cuts."""
        return tuple(range(len(self.models))) if self.on == "both" else (int(self.on),)

    def query(self) -> str:
        """The state as an address's query, `?` included; what is as at first is left out."""
        first = State()
        pairs = [("model", name) for name in self.models]
        pairs += [("q", self.question)] if self.question else []
        pairs += [("twin", self.twin)] if self.twin else []
        pairs += [("mode", "free")] if self.free else []
        pairs += [
            (name, str(getattr(self, name))) for name in ("how", "on") if getattr(self, name) != getattr(first, name)
        ]
        pairs += [("cut", str(cut)) for cut in self.cuts]
        pairs += [("view", self.view)] if self.view != first.view else []
        pairs += [("at", str(self.at))] if self.at is not None else []
        pairs += [("part", self.part)] if self.part else []
        pairs += [("seed", str(self.seed))] if self.seed else []
        return "?" + "&".join(f"{name}={quote(value, safe='[]:@,/->')}" for name, value in pairs)

    @classmethod
    def parse(cls, query: str, known: Sequence[str]) -> State:
        """The state of an address; `known` are the server's models. Raises SpecError on what no address says."""
        if len(query) > ADDRESS_LIMIT:
            raise SpecError(f"the address has {len(query)} characters; at most {ADDRESS_LIMIT} are read")
        try:
            pairs = parse_qsl(query.removeprefix("?"), keep_blank_values=True, max_num_fields=CUT_LIMIT + 32)
        except ValueError as error:
            raise SpecError(f"the address does not read ({error})") from None
        given: dict[str, list[str]] = {}
        for name, value in pairs:
            given.setdefault(name, []).append(value)
        fields = ("model", "q", "twin", "mode", "how", "on", "cut", "view", "at", "part", "seed")
        for name, values in given.items():
            if name not in fields:
                raise SpecError(f"the address has an unknown field {_shown(name)}{did_you_mean(name, fields)}")
            if name not in ("model", "cut") and len(values) > 1:
                raise SpecError(f"the address has {name!r} {len(values)} times; once is enough")
        one = {name: values[0] for name, values in given.items()}
        try:
            return cls(
                models=_models(given.get("model", []), known),
                question=_text(one.get("q", "")),
                twin=_text(one.get("twin", "")),
                free=_one_of(one.get("mode", "forced"), ("forced", "free"), "mode") == "free",
                how=_one_of(one.get("how", "zero"), HOWS, "how"),
                on=_one_of(one.get("on", "both"), ("both", "0", "1"), "on"),
                cuts=_cuts(map(Cut.parse, given.get("cut", []))),
                view=_one_of(one.get("view", "attention"), VIEWS, "view"),
                at=_whole(one["at"], "at") if "at" in one else None,
                part=_part(one.get("part", "")),
                seed=_whole(one.get("seed", "0"), "seed"),
            )
        except ValueError as error:
            raise SpecError(f"the address does not read ({error})") from None

    def act(self, action: Mapping[str, Any], known: Sequence[str]) -> State:
        """The state after a click. Raises SpecError on an action that no control of ours sends.

        {"do": "cut", "what": "a0.h1", "position": 12}   cuts the part in the models aimed at, or restores it there
        {"do": "restore", "cut": "0:zero:a0.h1"}         takes one intervention back
        {"do": "reset"}                                  takes all of them back
        {"do": "set", "question": …, "view": …, …}       anything else, field by field
        """
        do = action.get("do")
        if do == "cut":
            position = action.get("position")
            return self._cut(_part(action.get("what")), None if position is None else _whole(position, "position"))
        if do == "restore":
            gone = Cut.parse(_text(action.get("cut")))
            return dataclasses.replace(self, cuts=tuple(cut for cut in self.cuts if cut != gone))
        if do == "reset":
            return dataclasses.replace(self, cuts=())
        if do == "set":
            return self._set({name: value for name, value in action.items() if name not in ("do", "n")}, known)
        raise SpecError(f"unknown action {_shown(do)}; actions are cut, restore, reset, set")

    def _cut(self, what: str, position: int | None) -> State:
        if not what:
            raise SpecError("a part is wanted, such as 'a0.h1'")
        aimed = self.aimed_at()
        there = [cut for cut in self.cuts if cut.model in aimed and cut.place == (what, position)]
        if {cut.model for cut in there} == set(aimed):
            return dataclasses.replace(self, cuts=tuple(cut for cut in self.cuts if cut not in there))
        made = [Cut(model, self.how, what, position) for model in aimed if model not in {cut.model for cut in there}]
        return dataclasses.replace(self, cuts=_cuts([*self.cuts, *made]))

    def _set(self, given: Mapping[str, Any], known: Sequence[str]) -> State:
        checks: dict[str, Any] = {
            "models": lambda value: _models(value, known),
            "question": _text,
            "twin": _text,
            "free": lambda value: _one_of(value, (True, False), "free"),
            "how": lambda value: _one_of(value, HOWS, "how"),
            "on": lambda value: _one_of(value, ("both", "0", "1"), "on"),
            "view": lambda value: _one_of(value, VIEWS, "view"),
            "at": lambda value: None if value is None else _whole(value, "at"),
            "part": _part,
            "seed": lambda value: _whole(value, "seed"),
        }
        for name in given:
            if name not in checks:
                raise SpecError(f"unknown field {_shown(name)}{did_you_mean(str(name), checks)}")
        changed = dataclasses.replace(self, **{name: checks[name](value) for name, value in given.items()})
        if changed.question != self.question or changed.models != self.models:
            # Positions and parts are those of one question and one model.
            renewed = changed.models != self.models
            changed = dataclasses.replace(
                changed,
                cuts=() if renewed else tuple(cut for cut in changed.cuts if cut.position is None),
                at=changed.at if "at" in given else None,
                on="both" if renewed else changed.on,
            )
        return changed


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "…'"


def _one_of(value: Any, known: Sequence[Any], name: str) -> Any:
    if isinstance(value, (str, bool)) and value in known:
        return value
    raise SpecError(f"{name} is {_shown(value)}; it is one of {', '.join(map(str, known))}")


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise SpecError(f"found {_shown(value)} where text is wanted")
    if len(value) > QUESTION_LIMIT:
        raise SpecError(f"the text has {len(value)} characters; at most {QUESTION_LIMIT} are read")
    return value


def _part(value: object) -> str:
    if value == "" or (isinstance(value, str) and _PART.fullmatch(value)):
        return str(value)
    raise SpecError(
        f"{_shown(value)} is no part of a model; parts are named as in 'a0.h1', 'm0', 'm0.n17', 'a0.h1->m0'"
    )


def _whole(value: object, name: str) -> int:
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= 6:
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= POSITION_LIMIT:
        return value
    raise SpecError(f"{name} is {_shown(value)}; it is a whole number from 0 to {POSITION_LIMIT}")


def _models(names: object, known: Sequence[str]) -> tuple[str, ...]:
    if not isinstance(names, (list, tuple)) or len(names) > 2 or len(set(map(str, names))) < len(names):
        raise SpecError("one or two different models can be looked at")
    for name in names:
        if name not in known:
            raise SpecError(f"no model {_shown(name)} is open here{did_you_mean(str(name), known)}")
    return tuple(names)


def _cuts(cuts: Iterable[Cut]) -> tuple[Cut, ...]:
    made = tuple(dict.fromkeys(cuts))
    if len(made) > CUT_LIMIT:
        raise SpecError(f"{len(made)} interventions at once; at most {CUT_LIMIT}")
    return made
