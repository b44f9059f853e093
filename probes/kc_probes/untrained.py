"""The twin that a probe sets beside a trained model: the same run before its first step."""

from __future__ import annotations

from kc_interp.model.parameters import Parameters, stack
from kc_interp.probe import Subject
from kc_interp.train import initial_parameters


def initial(subject: Subject) -> Parameters:
    """The parameters that this run began with, with a leading `run` axis of one, on the model's device."""
    checkpoint = subject.checkpoint
    fresh = initial_parameters(checkpoint.spec, d_vocab=len(subject.tokens), n_ctx=checkpoint.n_ctx)
    return stack([{name: value.to(checkpoint.device) for name, value in fresh.items()}])
