"""The circuit: how far every edge and every node alone moves the answer, exactly, for one pair of expressions.

Of the untouched model, teacher-forced. One pair gives no average, hence no interval; a circuit that is searched on many
pairs and judged on held-out ones is the probe `circuit`'s.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from jaxtyping import Float

from kc_interp.circuits.effects import edge_logits, node_logits
from kc_interp.errors import ProbeError
from kc_interp.explorer.views.panel import Look, Panel, cells
from kc_interp.explorer.views.twins import Contrast, untouched_only
from kc_interp.finding import Figure, Table
from kc_interp.model.graph import CONSTANTS, Graph

MOST_EDGES = 6_000
"""A graph of more edges is neither drawn nor read."""

LISTED = 12


def panels(look: Look) -> Iterator[Panel]:
    """The graph, its strongest edges to cut, and the two expressions. Raises ProbeError without a fitting pair."""
    graph = look.thinker.graph
    if len(graph.varying) > MOST_EDGES:
        raise ProbeError(
            f"{look.thinker.name} has {len(graph.varying)} edges; the circuit is drawn of up to {MOST_EDGES}. Cut its "
            "parts in another view, or run the probe circuit"
        )
    found = Contrast.of(look)
    edges, nodes = look.thinker.kept(("circuit", found.question, found.twin), lambda: _effects(graph, found))
    yield Panel(_figure(graph, found, edges, nodes), note=" ".join(filter(None, (untouched_only(look), found.says))))
    yield _strongest(look, found, edges)
    yield from found.panels()


def _writers(graph: Graph) -> list[int]:
    """The nodes that depend on the symbols."""
    return [index for index, name in enumerate(graph.writers) if name not in CONSTANTS]


def _effects(graph: Graph, found: Contrast) -> tuple[Float[np.ndarray, " edge"], Float[np.ndarray, " node"]]:
    """Of every edge that varies, and of every node."""
    logits = (
        edge_logits(found.base, found.source, graph.varying),
        node_logits(found.base, found.source, _writers(graph)),
    )
    edges, nodes = (found.effects(found.metric(some)[:, 0].double().cpu().numpy()) for some in logits)
    return edges, nodes


def _figure(
    graph: Graph, found: Contrast, edges: Float[np.ndarray, " edge"], nodes: Float[np.ndarray, " node"]
) -> Figure:
    names = [graph.writers[writer] for writer in _writers(graph)]
    drawn = [
        {"source": graph.writers[writer], "target": graph.readers[reader], "effect": effect}
        for (writer, reader), effect in zip(graph.varying, cells(edges), strict=True)
    ]
    return Figure(
        kind="circuit",
        title="Every edge and every node by its exact effect on this one pair",
        shows="How far the answer moves from the question's towards the second expression's when this edge alone, or "
        "all edges that leave this node, carry what the second expression writes.",
        refuted_by="It is one pair of expressions, without an interval: another pair of the same shape in which other "
        "edges are strong refutes a general reading. Effects do not add up: strong edges are no tested circuit.",
        data={
            "depth": graph.depth,
            "n_heads": graph.n_heads,
            "nodes": [
                *({"name": name, "effect": effect} for name, effect in zip(names, cells(nodes), strict=True)),
                {"name": "logits", "effect": None},
            ],
            "edges": drawn,
            "unit": found.unit,
        },
    )


def _strongest(look: Look, found: Contrast, edges: Float[np.ndarray, " edge"]) -> Panel:
    graph, state = look.thinker.graph, look.state
    order = np.argsort(-np.abs(np.nan_to_num(edges)), kind="stable")[:LISTED]
    names, aimed = [graph.name(graph.varying[index]) for index in order], set(state.aimed_at())
    off = [aimed <= {cut.model for cut in state.cuts if cut.place == (name, None)} for name in names]
    return Panel(
        table=Table(
            f"The {len(names)} edges with the largest effect",
            ("edge", found.unit),
            tuple((name, cells(edges)[index]) for name, index in zip(names, order, strict=True)),
        ),
        hint=f"A button cuts the edge at all positions in the way chosen above, now {state.how!r}; the effects are "
        "those of 'patch'.",
        actions=tuple(
            ("Restore" if there else "Cut", {"do": "cut", "what": name}) for name, there in zip(names, off, strict=True)
        ),
    )
