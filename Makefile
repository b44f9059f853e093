# One command does all the set-up: every target below installs what it needs into .venv first.
#   make demo            train eight small models, probe what learned, write demo/report.html (minutes)
#   make test            the tests; `make test-slow` those that take minutes
#   make check           lint, types, import contracts
#   make bench           every benchmark, each printing its ratio
#   make install PIP_ARGS="..."   passed to pip, e.g. for another build of torch

VENV ?= .venv
# One test process more than cores: those that drive a browser, or wait for what they killed, wait much of their time.
WORKERS ?= $(shell $(PYTHON) -c 'import os; print((os.cpu_count() or 1) + 1)')
PYTHON ?= python3
PIP_ARGS ?=
DEMO_ARGS ?=
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
SOURCES := kc_interp probes tests experiments figures
BENCHES := startup sampling patching circuits recovery training ensemble store calibration explorer demo

.PHONY: install demo test test-slow check format bench clean

install: $(STAMP)

# Redone when the dependencies change, and with them the entry points, which show only after installing anew.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "kc-interp needs Python 3.11 or newer; '$(PYTHON)' is $$($(PYTHON) -V 2>&1). Try: make PYTHON=python3.11 ..." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt $(PIP_ARGS) -e '.[dev]'
	@touch $@

demo: $(STAMP)
	$(BIN)/kc-interp demo --out demo $(DEMO_ARGS)

test: $(STAMP)
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile

test-slow: $(STAMP)
	$(BIN)/python -m pytest -m slow

check: $(STAMP)
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(STAMP)
	$(BIN)/ruff check --fix $(SOURCES)
	$(BIN)/ruff format $(SOURCES)

bench: $(STAMP)
	@missed=; for name in $(BENCHES); do echo "== $$name"; $(BIN)/python experiments/bench/$$name.py || missed="$$missed $$name"; done; \
		test -z "$$missed" || { echo "missed its target:$$missed"; exit 1; }

clean:
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis build dist
