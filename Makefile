# The commands of the project. A fresh machine needs Python 3.11, make and a package index.
#
#   make demo       two unlearning requests on real data, from submission to report; then stop everything
#   make run        the whole service on this machine until Ctrl-C; its data stays in .expunge/
#   make test       all but the slow tests; prints what it left out
#   make test-all   all tests
#   make check      ruff format, ruff, mypy, import-linter, the documentation in strict mode
#   make docs       build the documentation as a site in site/; fails on dead links and stale tables
#   make sbom       the bill of materials of the virtual environment, as build/sbom.cdx.json; each image holds its own
#   make bench      most of the commands behind the measured tables; hours
#   make setup      the virtual environment only; again when pyproject.toml or constraints.txt change
#   make clean      remove everything that can be made again; keeps .expunge/ and weights/

PYTHON ?= $(shell command -v python3.11 || command -v python3)
# If the index serves the CUDA build of torch and the machine has no GPU: make setup TORCH_OPTIONS="--index-url https://download.pytorch.org/whl/cpu"
TORCH_OPTIONS ?=

BIN := .venv/bin
STAMP := .venv/.complete
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --quiet --constraint constraints.txt

# By default torch's threads spin while they wait. Two processes that share two cores then slow each other down.
export OMP_WAIT_POLICY := PASSIVE

# Every program that is started would otherwise compile all modules again.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help setup run demo test test-all check docs sbom bench clean

help:
	@sed -n 's/^#   //p' Makefile

setup: $(STAMP)

# Torch is installed first and alone, so that no dependency on "torch" brings another build.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Expunge needs Python 3.11 or newer; this is $$($(PYTHON) --version 2>&1). Choose another one: make PYTHON=/path/to/python3.11 …"; exit 1; }
	@echo "Setting up .venv: $$(grep -c == constraints.txt) packages with PyTorch. This happens once and takes minutes on a slow line."
	@rm -f $(STAMP)
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(PIP) torch $(TORCH_OPTIONS)
	@$(PIP) --editable '.[dev]'
	@touch $(STAMP)

run: $(STAMP)
	@$(BIN)/expunge up --data-dir .expunge

demo: $(STAMP)
	@$(BIN)/expunge demo

# Four processes also on two cores, because many tests wait for servers and workers that they have started.
test: $(STAMP)
	@$(BIN)/python -m pytest -m "not slow and not quality and not gpu" --numprocesses 4
	@echo "Left out: tests marked slow (more cases of what quicker tests cover), quality (several seeds of whole runs) and gpu,"
	@echo "  and nine tenths of what Hypothesis and Schemathesis would generate. 'make test-all' runs those too."
	@command -v chromium > /dev/null || echo "Left out: the tests in a browser, because chromium is not installed (Debian: apt-get install chromium)."
	@command -v promtool > /dev/null || echo "Left out: the tests of rules, dashboards and the drill, because Prometheus is not installed (Debian: apt-get install prometheus)."
	@command -v pgbouncer > /dev/null || test -x /usr/sbin/pgbouncer || echo "Left out: the tests behind PgBouncer, because it is not installed (Debian: apt-get install pgbouncer)."
	@command -v fides > /dev/null || echo "Left out: the check of the template for Fides with its own classes, because fides is not installed (docs/integrations/fides.md says how)."
	@command -v mlflow > /dev/null || echo "Left out: the tests of the model registry, because mlflow is not installed (docs/integrations/mlflow.md says how)."
	@command -v model_signing > /dev/null || echo "Left out: the check of signed weights by other software, because model-signing is not installed (docs/integrations/model-signing.md says how)."
	@$(BIN)/python -c "import transformers" 2> /dev/null || echo "Left out: the tests of Hugging Face language models, because transformers is not installed (docs/models-and-data.md says how)."
	@command -v mlserver > /dev/null || echo "Left out: the tests of a real model server, and of all systems together, because mlserver is not installed (docs/integrations/model-servers.md says how)."
	@$(BIN)/python -c "import pyarrow" 2> /dev/null || echo "Left out: the tests of Parquet files, because pyarrow is not installed (pip install 'expunge[parquet]')."
	@$(BIN)/python -c "import importlib.util; raise SystemExit(not importlib.util.find_spec('peft'))" || echo "Left out: the tests of LoRA adapters, because peft is not installed (pip install peft)."
	@command -v nginx > /dev/null || test -x /usr/sbin/nginx || echo "Left out: the tests of the proxy, because nginx is not installed (Debian: apt-get install nginx)."

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

sbom: $(STAMP)
	@mkdir -p build
	@$(BIN)/python ops/containers/sbom > build/sbom.cdx.json
	@echo build/sbom.cdx.json

BENCHES := validation quality relearn verdicts ablation deletions readiness speed training scaling attacks \
	few_samples aims policy cost transfer language language_readiness generative load coalescing soak uploads subjects reports scrapes mutations

bench: $(STAMP)
	@set -e; for name in $(BENCHES); do echo "== $$name"; $(BIN)/python -m benchmarks.$$name; done
	@$(BIN)/python -m benchmarks.ablation --references
	@$(BIN)/python -m benchmarks.validation --references --seeds 20 21
	@$(BIN)/python -m benchmarks.policy --case digits=20,21,22,23 --sets "a tenth" "10 samples" --methods ltu ieu ct
	@$(BIN)/python -m benchmarks.policy --references --case digits=20,21 --sets "a tenth" --methods matching ieu ltu
	@$(BIN)/python -m benchmarks.scaling --processes
	@$(BIN)/python -m benchmarks.verdicts --few 8 --case digits
	@$(BIN)/python -m benchmarks.verdicts --tests --case digits
	@$(BIN)/python -m benchmarks.verdicts --parts 1 4 --case digits
	@$(BIN)/python -m benchmarks.verdicts --parts 1 4 --case digits --seeds 20 21 22 23
	@$(BIN)/python -m benchmarks.verdicts --limits 3 6 --case digits --seeds 20 21 22 23
	@$(BIN)/python -m benchmarks.relearn_noise --seeds 20 21 22 23
	@$(BIN)/python -m benchmarks.language --many
	@$(BIN)/python -m benchmarks.tables

clean:
	@rm -rf .venv build dist site .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache ./*.egg-info
	@find . -name __pycache__ -type d -not -path './.venv/*' -prune -exec rm -rf {} +
	@test ! -d .expunge || echo "Kept: .expunge/ (the embedded stack's database, weights and key)."
	@test ! -d weights || echo "Kept: weights/ (what expunge train wrote)."
