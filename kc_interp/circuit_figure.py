"""The data of a `circuit` figure: checked against its grid, as a table, and as the page's script wants it.

Nodes and edges are named as in the edge attribution literature: `a0.h1` is head 1 of block 0, `m0` its MLP,
`a0.h1->a1.h2<k>` the edge into the key input of a later head.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from kc_interp.errors import SpecError, did_you_mean
from kc_interp.finding import Cell, Figure, to_plain

_EMBEDDINGS = ("token", "position", "bias")
_NODE = re.compile(r"a(?P<block>\d+)\.h(?P<head>\d+)|m(?P<mlp>\d+)")
_PORT = re.compile(r"<[qkv]>$")
_NUMBERS = ("effect", "low", "high")


def checked(figure: Figure) -> dict[str, Any]:
    """The figure's data, plain. Raises SpecError, naming the node, edge or example at fault, when they fit no grid."""
    try:
        data = to_plain(figure.data)
        for problem in _problems(data):
            raise SpecError(f"figure {figure.title!r}: {problem}")
    except KeyError as missing:
        raise SpecError(f"figure {figure.title!r}: a circuit needs {missing} in its data") from None
    except (AttributeError, TypeError) as error:
        raise SpecError(f"figure {figure.title!r}: its data do not fit the kind 'circuit' ({error})") from None
    return data


def name_of(edge: Mapping[str, Any]) -> str:
    """`source->target`."""
    return f"{edge['source']}->{edge['target']}"


def table(data: Mapping[str, Any]) -> tuple[tuple[str, ...], list[tuple[Cell, ...]]]:
    """Columns and rows: every node, then every edge, with its interval, whether it is kept, and its scores."""
    scores = _score_names(data)
    rows: list[tuple[Cell, ...]] = [
        (node["name"], *(node.get(name) for name in _NUMBERS), None, *(None for _ in scores)) for node in data["nodes"]
    ]
    rows += [
        (name_of(edge), *(edge.get(name) for name in _NUMBERS), "yes" if edge.get("kept") else "no",
         *((edge.get("scores") or {}).get(score) for score in scores))
        for edge in data["edges"]
    ]  # fmt: skip
    return ("node or edge", *_NUMBERS, "kept", *scores), rows


def widget(data: Mapping[str, Any]) -> dict[str, Any]:
    """Edges by column, which takes a third of the room that a mapping for each would take."""
    edges, names = data["edges"], _score_names(data)
    return {
        "depth": data["depth"],
        "heads": data["n_heads"],
        "rows": [str(row) for row in data.get("rows") or (f"block {block}" for block in range(data["depth"]))],
        "unit": str(data.get("unit") or ""),
        "keptSays": str(data.get("kept_says") or ""),
        "nodes": [
            {"name": node["name"], "text": str(node.get("text") or ""), **{n: node.get(n) for n in _NUMBERS}}
            for node in data["nodes"]
        ],
        "edges": {
            "names": [name_of(edge) for edge in edges],
            "kept": [int(bool(edge.get("kept"))) for edge in edges],
            "scores": {name: [(edge.get("scores") or {}).get(name) for edge in edges] for name in names},
            **{name: [edge.get(name) for edge in edges] for name in _NUMBERS},
        },
        "examples": [
            {
                "clean": str(example["clean"]),
                "twin": str(example["twin"]),
                "moved": example["moved"],
                "movedNodes": example.get("moved_nodes"),
            }
            for example in data.get("examples") or ()
        ],
    }


def _score_names(data: Mapping[str, Any]) -> list[str]:
    return sorted({str(name) for edge in data["edges"] for name in edge.get("scores") or ()})


def _problems(data: Mapping[str, Any]) -> Iterator[str]:
    """What is wrong with the data, in words; nothing when they can be drawn."""
    for name in ("depth", "n_heads"):
        if not isinstance(data[name], int) or data[name] < 1:
            yield f"{name!r} is {data[name]!r}; a grid has one or more"
    if data.get("rows") and len(data["rows"]) != data["depth"]:
        yield f"'rows' names {len(data['rows'])} for a depth of {data['depth']}"
    names = [node["name"] for node in data["nodes"]]
    for node in data["nodes"]:
        if _row(node["name"], data) is None:
            grid = f"a grid of depth {data['depth']} with {data['n_heads']} heads"
            yield f"no place for the node {node['name']!r} on {grid}"
        if names.count(node["name"]) > 1:
            yield f"the node {node['name']!r} stands there twice"
        yield from _no_numbers(f"the node {node['name']!r}", {name: node.get(name) for name in _NUMBERS})
    seen: set[str] = set()
    for edge in data["edges"]:
        name = name_of(edge)
        if name in seen:
            yield f"the edge {name!r} stands there twice"
        seen.add(name)
        yield from _no_edge(edge, names, data)
        scores = edge.get("scores") or {}
        yield from _no_numbers(
            f"the edge {name!r}", {**scores, "effect": edge["effect"], "low": edge.get("low"), "high": edge.get("high")}
        )
    for index, example in enumerate(data.get("examples") or ()):
        yield from _no_example(index, example, data)


def _no_edge(edge: Mapping[str, Any], names: Sequence[str], data: Mapping[str, Any]) -> Iterator[str]:
    name, target = name_of(edge), edge["target"]
    node = _PORT.sub("", target)
    for end in (edge["source"], node):
        if end not in names:
            yield f"the edge {name!r} names {end!r}, which is not among the nodes{did_you_mean(end, names)}"
    if (node != target) != (node.startswith("a")):
        yield f"the edge {name!r}: heads, and only heads, are entered by query, key or value, as in 'a0.h1<q>'"
    if (_row(edge["source"], data) or 0) >= (_row(node, data) or 0):
        yield f"the edge {name!r} leads to nothing later than its source"


def _no_example(index: int, example: Mapping[str, Any], data: Mapping[str, Any]) -> Iterator[str]:
    for field, of, wanted in (
        ("moved", "edges", example["moved"]),
        ("moved_nodes", "nodes", example.get("moved_nodes")),
    ):
        if wanted is not None:
            if len(wanted) != len(data[of]):
                yield f"{field!r} of example {index} has length {len(wanted)}, not {len(data[of])} as the {of}"
            yield from _no_numbers(f"example {index}, {field}", dict(enumerate(wanted)))


def _no_numbers(whose: str, values: Mapping[Any, Any]) -> Iterator[str]:
    for name, value in values.items():
        if value is not None and (isinstance(value, bool) or not isinstance(value, (int, float))):
            yield f"{whose}: {name!r} is {value!r}, which is no number"


def _row(name: str, data: Mapping[str, Any]) -> int | None:
    """The row of a node, counted from the embeddings up; None when the grid has no such place."""
    if name in _EMBEDDINGS:
        return 0
    if name == "logits":
        return 2 * int(data["depth"]) + 1
    found = _NODE.fullmatch(name)
    if found is None or int(found["head"] or 0) >= data["n_heads"]:
        return None
    block = int(found["mlp"] or found["block"] or 0)
    return None if block >= data["depth"] else 2 * block + (2 if found["mlp"] else 1)
