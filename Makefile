# `make` lists the targets. Every target brings its own .venv up to date from requirements.lock first.
SHELL := /bin/bash
.DEFAULT_GOAL := help
VENV ?= .venv
BIN := $(VENV)/bin
export FLWR_TELEMETRY_ENABLED := 0
export FLWR_DISABLE_UPDATE_CHECK := 1
export RAY_USAGE_STATS_ENABLED := 0
export FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION := 1
# The first Python from 3.11 to 3.13 on the path; `make PYTHON=/path/to/python3.12` overrides.
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null && { echo $$p; break; }; done)
# Tests at once: many of them wait for processes they started, so more than the cores.
JOBS ?= 3
STAMP := $(VENV)/.up-to-date
LINTED := amgt_fed server clients tests benchmarks examples deploy

.PHONY: help venv demo test check format lock proto clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(STAMP): requirements.lock pyproject.toml
	@test -n "$(PYTHON)" || { echo "AMGT-Fed needs Python 3.11, 3.12 or 3.13 and found none; install one, or: make PYTHON=/path/to/python3.12 $(MAKECMDGOALS)" >&2; exit 2; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

venv: $(STAMP) ## set up .venv with the locked versions

demo: $(STAMP) ## train digits over 20 non-IID clients, beside dense FedAvg
	$(BIN)/amgt-fed run $(ARGS)

test: $(STAMP) ## run every test, with coverage
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal --cov --cov-report=term $(ARGS)

check: $(STAMP) ## lint, format, types, import rules, shell scripts, Dockerfiles, units, manifests
	$(BIN)/ruff check $(LINTED)
	$(BIN)/ruff format --check $(LINTED)
	$(BIN)/mypy
	$(BIN)/lint-imports
	deploy/check.sh

format: $(STAMP) ## rewrite the sources in the project's format
	$(BIN)/ruff check --fix $(LINTED)
	$(BIN)/ruff format $(LINTED)

proto: $(STAMP) ## regenerate the protobuf code from protos/
	$(BIN)/python protos/generate.py

lock: ## resolve pyproject.toml afresh and rewrite requirements.lock
	rm -rf .lock-venv && $(PYTHON) -m venv .lock-venv
	.lock-venv/bin/python -m pip install --quiet torch==2.13.0 -e '.[ray,dev]'
	{ echo '# Exact versions `make` installs. Written by `make lock`; edit pyproject.toml instead.'; \
	  .lock-venv/bin/python -m pip freeze --exclude-editable --all | grep -viE '^(pip|amgt-fed|-e )' | sed 's/+cpu$$//'; } > requirements.lock
	rm -rf .lock-venv

clean: ## remove .venv and everything generated
	rm -rf $(VENV) build dist *.egg-info .coverage .hypothesis .mypy_cache .pytest_cache .ruff_cache .import_linter_cache
