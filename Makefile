# Two commands on a fresh machine: `make demo` and `make test`. Needs Python 3.11+, make, a C compiler, a package index.

PYTHON ?= python3
TORCH ?= $(shell grep "^torch==" constraints.txt)
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

# Bytecode is kept even where the environment says otherwise: the tests start some hundred processes.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test test-all check bench clean help

help: ## Show this list.
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(TORCH)
	grep -v "^torch==" constraints.txt > $(VENV)/constraints.txt # keeps a torch chosen with TORCH=
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c $(VENV)/constraints.txt -e '.[dev]'
	@touch $@

demo: $(STAMP) ## Install, and train the shared CNN at four sites on real images.
	$(BIN)/hansa simulate

test: $(STAMP) ## Run the tests (under 5 minutes); 'make check' runs those of the architecture.
	$(BIN)/python -m pytest -n auto --maxprocesses=4 --dist worksteal -m "not slow" --ignore=tests/architecture

test-all: $(STAMP) ## Run the slow tests too.
	$(BIN)/python -m pytest

check: $(STAMP) ## Lint, types, layers, dependencies, README.
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/mypy tests benchmarks
	$(BIN)/lint-imports
	$(BIN)/deptry .
	$(BIN)/python scripts/readme_help.py --check
	$(BIN)/python -m pytest -q --durations=0 tests/architecture

bench: $(STAMP) ## Measure; prints tables (see benchmarks/RESULTS.md).
	$(BIN)/python -m benchmarks

clean: ## Remove the environment and caches.
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
