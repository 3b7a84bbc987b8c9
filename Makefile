# make mini: from a fresh clone to the results table. make help lists the rest.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.DEFAULT_GOAL := help
.PHONY: help setup mini smoke test gpu lint format readme

help:
	@echo "make setup   create $(VENV) and install everything into it (once)"
	@echo "make mini    run the embedded benchmark with the embedded models and print the results table"
	@echo "make smoke   the same path in under a minute, with a few samples"
	@echo "make test    run the tests"
	@echo "make gpu     measure everything on this GPU into results/bench (make gpu ARGS=--dry-run: small sizes, on the CPU)"
	@echo "make lint    run ruff, mypy and import-linter"
	@echo "make format  let ruff format the code"
	@echo "make readme  regenerate tables, figures and pages from the committed results, README.md included"

setup: $(READY)

# The stamp is written last: an interrupted installation starts over.
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed: make setup PYTHON=python3.12" >&2; exit 2; }
	@echo "Installing into $(VENV): some minutes, about 2 GB"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps lmms-eval==0.7.3
	@touch $@

mini: setup
	$(BIN)/python run.py --matrix mini.yaml $(ARGS)

smoke: setup
	$(BIN)/python run.py --matrix smoke.yaml $(ARGS)

# The models in the tests are so small that a second thread costs more than it brings: one process for each core instead,
# each with whole files of tests, whose fixtures are shared.
test: export OMP_NUM_THREADS ?= 1
test: export TOKENIZERS_PARALLELISM ?= false
test: export HF_HUB_OFFLINE ?= 1
# Empty: pytest keeps its rewritten tests, which are half of the time to collect them.
test: export PYTHONDONTWRITEBYTECODE :=
test: setup
	$(BIN)/python -m pytest -n auto --dist loadfile $(ARGS)

# Without a virtual environment where there is none: a GPU machine often has torch, and no package index.
gpu:
	$(if $(wildcard $(READY)),$(BIN)/python,$(PYTHON)) run.py bench --suite gpu $(ARGS)

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

readme: setup
	$(BIN)/python -m evals.committed_results
