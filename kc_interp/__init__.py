"""kc-interp: how big must a small transformer be to learn a task, what decides that, and which algorithm did it learn?

    import kc_interp
    checkpoint = kc_interp.load("runs/sum")     # a run directory or a .safetensors file
    checkpoint.metrics, checkpoint.task, checkpoint.tokens, checkpoint.spec
    model = checkpoint.hooked()                 # a transformer_lens.HookedTransformer

Importing the package imports nothing heavy; `load` imports torch when it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kc_interp.checkpoint import Checkpoint as Checkpoint
    from kc_interp.checkpoint import load as load

__version__ = "0.1.0"
__all__ = ["Checkpoint", "__version__", "load"]


def __getattr__(name: str) -> object:
    if name in ("Checkpoint", "load"):
        from kc_interp import checkpoint

        return getattr(checkpoint, name)
    raise AttributeError(f"module 'kc_interp' has no attribute {name!r}")
