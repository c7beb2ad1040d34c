# medpipe: everything from a fresh clone, with Python 3.11 or later and make. 'make' alone lists the targets.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install -qq --disable-pip-version-check -c constraints.txt
RUN_READY := $(VENV)/.ready
DEV_READY := $(VENV)/.ready-dev
# two processes of one thread each are faster than one of two; a file's tests share what they set up
PYTEST := $(BIN)/python -m pytest -n 2 --dist loadfile

.DEFAULT_GOAL := help
.PHONY: help demo test test-all lint format constraints bench ui clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 20

demo: $(RUN_READY) ## the whole chain on a made-up hospital; ends with a release (PREFECT=1: as a Prefect flow)
	$(BIN)/medpipe demo $(if $(PREFECT),--prefect)

test: $(RUN_READY) ## the quick tests
	$(PYTEST)

test-all: $(RUN_READY) ## every test, the long ones too
	$(PYTEST) -m "slow or not slow"

lint: $(DEV_READY) ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(DEV_READY) ## put the code into its one form
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

constraints: $(DEV_READY) ## write the versions of this environment, which you have tested, to constraints.txt
	{ echo "# The exact set that is tested ('make constraints'); torch without a build label, so that a machine takes the build that suits it."; \
	  $(BIN)/python -m pip freeze --exclude-editable | sed -E 's/^(torch==[0-9.]+)\+.*/\1/' | grep -vi '^medpipe'; } > constraints.new
	mv constraints.new constraints.txt

bench: $(RUN_READY) ## measure against named references (LONG=1: the full ones too)
	$(BIN)/python -m benchmarks.run $(if $(LONG),--long)
	$(if $(LONG),$(BIN)/python -m benchmarks.orchestration)

ui: $(RUN_READY) ## a local Prefect server, work pool and worker with medpipe's deployments; prints the address
	$(BIN)/python -m deployments.ui

clean: ## remove what the targets above made, and keep your data
	rm -rf $(VENV) .venv-ci .ruff_cache .mypy_cache .pytest_cache .hypothesis build *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "medpipe needs Python 3.11 or later: make PYTHON=python3.12 ..." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(RUN_READY): pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing medpipe and what it needs into $(VENV) (a few minutes, once)"
	$(PIP) -e '.[test]'
	@touch $@

$(DEV_READY): $(RUN_READY)
	$(PIP) -e '.[test,dev]'
	@touch $@
