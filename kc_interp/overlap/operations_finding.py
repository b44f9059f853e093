"""What comparing the operations of one model says: the edges that they share, and what cutting one costs another."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from kc_interp.circuits.shared import Shared
from kc_interp.finding import Figure, Finding, Number
from kc_interp.overlap.measured import Asked
from kc_interp.overlap.words import p_value, share


def shared_finding(
    subject: str, found: Shared, edges: Mapping[str, int], asked: Asked, learned: bool | None
) -> Finding:
    """What the operations of one model share. `edges`: the size of each one's circuit."""
    names = list(edges)
    numbers = []
    for (one, other), (both, null) in found.overlaps.items():
        numbers.append(
            Number(
                f"shared.{one}.{other}",
                f"Shared: edges in the circuits of {one} and {other}, of those in either",
                both.jaccard,
                n=edges[one],
                unit="exact",
                control=null.high,
                control_says=f"95 % point of {null.draws} pairs of random circuits of as many edges",
                higher_means="the two operations use the same edges",
                note=f"p = {p_value(null.p)}; effects shared {both.weighted:.2f}, rank correlation {share(both.rank)}",
            )
        )
    for (one, other), cut in found.cuts.items():
        what = "its own circuit" if one == other else f"the circuit of {other}"
        numbers.append(
            Number(
                f"cut.{one}.{other}",
                f"Necessity: {one} without {what}",
                cut.all.value,
                cut.all.low,
                cut.all.high,
                asked.pairs,
                "input",
                cut.random,
                "as many random edges, on average",
                "more of its logit difference is lost",
                f"{cut.edges} edges",
            )
        )
        if one != other:
            only = cut.only
            numbers.append(
                Number(
                    f"only.{one}.{other}",
                    f"Necessity: {one} without what only the circuit of {other} has",
                    only.value if only else None,
                    only.low if only else None,
                    only.high if only else None,
                    asked.pairs,
                    "input",
                    cut.only_random,
                    "as many random edges, on average" if only else "",
                    "the circuit that was found for it lacks something that it uses",
                    f"{cut.only_edges} edges" if only else "the one circuit holds all edges of the other",
                )
            )
    says = [f"{one} and {other} share {both.jaccard:.0%} of their circuits' edges (random circuits of as many: "
            f"{share(null.mean)} on average)." for (one, other), (both, null) in found.overlaps.items()]  # fmt: skip
    if learned is False:
        says.insert(0, "This model has not learned its task, so nothing is claimed about how it solves it.")
    says.append(
        "Circuits are searched on one half of the inputs and cut on the other. One edge that both need, as the last "
        "MLP's to the logits, is enough for the whole loss: what only the other has is the finer question. That two "
        "operations need the same edges does not show that the same is computed on them."
    )
    return Finding(
        probe="circuit-shared",
        subject=subject,
        title="Operations compared: what their circuits share in one model, and what cutting one costs the other",
        sentence=" ".join(says),
        status="unlearned" if learned is False else "ok",
        numbers=tuple(numbers),
        figures=(
            Figure(
                "heatmap",
                "What an operation loses without another's circuit",
                "Rows: the operation asked; columns: whose circuit is cut. 1: the whole logit difference is lost.",
                "Cells off the diagonal no larger than as many random edges cost (the controls, in the numbers): then "
                "the operations use different edges.",
                {"x": names, "y": names, "z": [[found.cuts[one, other].all.value for other in names] for one in names],
                 "zmid": None, "x_title": "circuit that is cut", "y_title": "operation", "z_title": "share lost"},
            ),
        ),
        settings=dataclasses.asdict(asked),
    )  # fmt: skip
