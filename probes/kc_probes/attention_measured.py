"""What probes of attention ask of a model: test chains, their queries, and the measures of the rows of these."""

from __future__ import annotations

import numpy as np
from jaxtyping import Int
from torch import Tensor

from kc_interp.circuits.attention import Measured, Queries, Rows, measure
from kc_interp.errors import ProbeError
from kc_interp.probe import Subject
from kc_interp.tasks.task import Chains


def asked(subject: Subject, probe: str, component: str | None, count: int) -> tuple[Chains, Queries]:
    """Test items of a component (of the whole mixture if the task has no such component), and their queries.

    Raises ProbeError when a chain begins with its answer, or the task's symbols are all of one class.
    """
    chains = subject.items(count, f"{probe}: chains", subject.component(component))
    if (chains.answers < 1).any():
        raise ProbeError(f"{subject.name}: a chain begins with its answer, so that no position predicts it")
    queries = Queries.of(subject.task, chains)
    if len(queries.names) < 2:
        raise ProbeError(
            f"{subject.name}: all symbols of this task count as {' '.join(queries.names) or 'the end'}; "
            f"{probe} compares classes of symbols and needs two; leave it out with --only"
        )
    return chains, queries


def measured_of(
    subject: Subject, probe: str, rows: Rows, queries: Queries, ids: Int[Tensor, "1 chain pos"]
) -> Measured:
    """Every measure of these rows. Raises ProbeError when the model's log-probabilities are not finite."""
    found = measure(rows, queries, ids, subject.rng(f"{probe}: entries cut at random"))
    if not np.isfinite(found.whole).all():
        raise ProbeError(f"{subject.name}: the model's log-probabilities are not finite; did its training diverge?")
    return found
