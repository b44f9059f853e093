"""Every annotated shape and type is checked while the tests run, and never otherwise."""

from __future__ import annotations

import os

from hypothesis import settings
from jaxtyping import install_import_hook

import tests.typecheck  # noqa: F401  (the hook looks it up by name)

# One thread for each test process (torch reads this when it is imported): pytest-xdist runs as many as there are cores,
# and more threads than cores wait for each other, tens of times slower.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Before any test imports the packages: what is imported earlier would go unchecked.
install_import_hook(["kc_interp", "kc_probes"], "tests.typecheck.checked")

# The same examples in every run, and no verdict by the clock: neither luck nor a busy machine fails a test.
settings.register_profile("kc-interp", deadline=None, derandomize=True)
settings.load_profile("kc-interp")
