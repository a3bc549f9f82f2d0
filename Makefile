# `make help` lists the targets. Both `make test` and `make demo` create .venv first when it is not there.

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready-$(shell pwd -P | cksum | cut -d" " -f1)
PYTEST_FLAGS ?= -n 2 --dist worksteal
export PYTHON

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:
.PHONY: help test lint demo bench clients coverage format lock clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo "Settings: PYTHON=python3.12 (for a new .venv), PYTEST_FLAGS='-n 2 --dist worksteal', HYPOTHESIS_PROFILE=quick|default|ci|deep"

test: lint ## Run every check and every test
	$(BIN)/python -m pytest $(PYTEST_FLAGS)

lint: $(READY) ## Run every check that runs no code: style, types, imports
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

demo: $(READY) ## Run the demonstration
	$(BIN)/python examples/demo/flights.py $(ARGS)

bench: $(READY) ## Measure a cluster on this machine: make bench ARGS="echo --rate 2000"
	$(BIN)/python -m corgi bench $(ARGS)

clients: ## Fetch Kafka's clients for Node.js, Java and Go by name, for tests that are skipped without them
	@sh tools/make-clients.sh .clients

coverage: $(READY) ## Run the tests and show which lines and branches they miss
	$(BIN)/python -m pytest $(PYTEST_FLAGS) --cov --cov-report=term --cov-report=html

format: $(READY) ## Format the code and repair what can be repaired
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

lock: $(READY) ## Resolve the pinned requirements anew: make lock ARGS=--upgrade
	$(BIN)/python tools/lock.py $(ARGS)

clean: ## Remove .venv, caches and results
	rm -rf $(VENV) .clients build dist htmlcov .coverage .coverage.*
	rm -rf .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(READY): requirements-dev.txt pyproject.toml tools/make-venv.sh
	@sh tools/make-venv.sh $(VENV) $(@F)
