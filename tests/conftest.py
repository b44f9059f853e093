"""Every annotated shape and type is checked while the tests run, and never otherwise."""

from __future__ import annotations

from jaxtyping import install_import_hook

import tests.typecheck  # noqa: F401  (the hook looks it up by name)

# Before any test imports the packages: what is imported earlier would go unchecked.
install_import_hook(["kc_interp", "kc_probes"], "tests.typecheck.checked")
