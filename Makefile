# Everything a newcomer types. A fresh machine needs Python 3.11, make and a package index; `make demo` and `make test` do the rest.
#
#   make demo       see two deletion requests travel all the way, then stop everything
#   make run        the whole service on this machine, until Ctrl-C; its data stays in .expunge/
#   make test       the tests that fit in ten minutes on two cores; says what it left out
#   make test-all   all of them
#   make check      ruff format, ruff, mypy, import-linter, the documentation in strict mode
#   make docs       build the documentation as a site in site/; fails on dead links and stale tables
#   make bench      the commands behind the measured tables
#   make setup      only the virtual environment; repeated when pyproject.toml or constraints.txt change
#   make clean      remove what can be made again; .expunge/ and weights/ are yours and stay

PYTHON ?= $(shell command -v python3.11 || command -v python3)
# On a machine whose index gives the CUDA build of torch, and no GPU: make setup TORCH_OPTIONS="--index-url https://download.pytorch.org/whl/cpu"
TORCH_OPTIONS ?=

BIN := .venv/bin
STAMP := .venv/.complete
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --quiet --constraint constraints.txt

# Torch's threads spin while they wait for each other; where two processes share two cores, both crawl.
export OMP_WAIT_POLICY := PASSIVE

.DEFAULT_GOAL := help
.PHONY: help setup run demo test test-all check docs bench clean

help:
	@sed -n 's/^#   //p' Makefile

setup: $(STAMP)

# Torch comes first and alone: with it in place, what asks for "torch" finds it and brings no other build.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Expunge needs Python 3.11 or newer; this is $$($(PYTHON) --version 2>&1). Name another one: make PYTHON=/path/to/python3.11 …"; exit 1; }
	@echo "Setting up .venv: $$(grep -c == constraints.txt) packages, PyTorch among them. Once; minutes on a slow line."
	@rm -f $(STAMP)
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(PIP) torch $(TORCH_OPTIONS)
	@$(PIP) --editable '.[dev]'
	@touch $(STAMP)

run: $(STAMP)
	@$(BIN)/expunge up --data-dir .expunge

demo: $(STAMP)
	@$(BIN)/expunge demo

test: $(STAMP)
	@$(BIN)/python -m pytest -m "not slow and not quality and not gpu" --numprocesses 2
	@echo "Left out: tests marked slow (more cases of what quicker tests cover), quality (several seeds of whole runs) and gpu,"
	@echo "  and nine tenths of what Hypothesis and Schemathesis would generate. 'make test-all' runs those too."
	@command -v chromium > /dev/null || echo "Left out: the tests in a browser, because chromium is not installed (Debian: apt-get install chromium)."
	@command -v promtool > /dev/null || echo "Left out: the tests of rules, dashboards and the drill, because Prometheus is not installed (Debian: apt-get install prometheus)."

test-all: $(STAMP)
	@$(BIN)/python -m pytest --timeout 3600 --hypothesis-profile many

check: $(STAMP)
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@$(MAKE) --no-print-directory docs

docs: $(STAMP)
	@$(BIN)/python docs/generate.py --check
	@$(BIN)/python -m benchmarks.tables --check
	@NO_MKDOCS_2_WARNING=true $(BIN)/mkdocs build --strict --quiet

BENCHES := validation quality relearn verdicts ablation deletions readiness speed references \
	load coalescing soak uploads reports scrapes

bench: $(STAMP)
	@set -e; for name in $(BENCHES); do echo "== $$name"; $(BIN)/python -m benchmarks.$$name; done
	@$(BIN)/python -m benchmarks.tables

clean:
	@rm -rf .venv build dist site .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache ./*.egg-info
	@find . -name __pycache__ -type d -not -path './.venv/*' -prune -exec rm -rf {} +
	@test ! -d .expunge || echo "Kept: .expunge/ (the embedded stack's database, weights and key)."
	@test ! -d weights || echo "Kept: weights/ (what expunge train wrote)."
