# The commands of the project. `make` alone lists them. Needs Python 3.11 to 3.13 and nothing else.
# Everything goes to git-ignored folders of this checkout: .venv, .cache, artifacts, state.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
PYTEST := $(BIN)/python -m pytest
# Those that need no broker share nothing and run side by side; the others share one, and measure it.
FAST := -n auto -m "not integration and not slow"

# Arguments for the program behind a target: make test ARGS="-k dedupe", make demo ARGS="--help".
ARGS ?=

# Recipes `exec` what they run: Ctrl-C and SIGTERM reach the program itself. GNU make 3.81 will do.
SHELL := /bin/bash
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

# The installers' own configuration stays in force (mirrors, certificates); their caches stay in the checkout.
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PIP_NO_INPUT := 1
export PIP_CACHE_DIR := $(CURDIR)/.cache/pip
export UV_CACHE_DIR := $(CURDIR)/.cache/uv
export UV_PYTHON_DOWNLOADS := never
ifdef PIP_INDEX_URL
export UV_DEFAULT_INDEX ?= $(PIP_INDEX_URL)
endif

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' Makefile

.PHONY: demo
demo: $(STAMP) ## broker, topics, bootstrap on real data, a worker, live events; prints what changed
	@exec $(BIN)/python -m ops.demo $(ARGS)

.PHONY: test
test: $(STAMP) ## every test, against a real Kafka broker too
	@$(PYTEST) -q $(FAST) $(ARGS) || [ $$? -eq 5 ] # 5: ARGS chose none of these
	@$(PYTEST) -q -m "integration or slow" $(ARGS) || [ $$? -eq 5 ]

.PHONY: test-fast
test-fast: $(STAMP) ## the tests that need no broker
	@exec $(PYTEST) -q $(FAST) $(ARGS)

.PHONY: chaos
chaos: $(STAMP) ## kill, freeze and restart things for longer than `make test` does
	@exec $(PYTEST) -q tests/chaos -m chaos $(ARGS)

.PHONY: bench
bench: $(STAMP) ## measure speed; prints the figures with their conditions
	@exec $(BIN)/python -m tests.bench $(ARGS)

.PHONY: lint
lint: $(STAMP) ## ruff, mypy --strict, import rules, no pickle
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --cache-dir .cache/import-linter
	@if grep -rnE '^[[:space:]]*(import|from)[[:space:]]+(pickle|cPickle|_pickle|dill|cloudpickle|joblib|shelve|marshal)\b|allow_pickle[[:space:]]*=[[:space:]]*True' \
	    --include='*.py' schemas streamer bootstrap ops tests; then \
	    echo "lint: the lines above use pickle, which this project never does" >&2; exit 1; \
	fi

.PHONY: format
format: $(STAMP) ## rewrite the source as the linter wants it
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.PHONY: broker
broker: $(STAMP) ## a local Kafka broker in the foreground, until Ctrl-C
	@exec $(BIN)/python -m ops.broker $(ARGS)

.PHONY: install
install: $(STAMP) ## the environment alone

.PHONY: clean
clean: ## remove everything that these targets made
	@rm -rf $(VENV) .cache artifacts state build dist *.egg-info .hypothesis .ruff_cache .mypy_cache .pytest_cache
	find . -path ./.git -prune -o -name __pycache__ -type d -print0 | xargs -0 rm -rf

# Locks: versions and hashes only. No registry's address, so that anyone's mirror serves.
UV_COMPILE = $(BIN)/uv pip compile pyproject.toml --universal --python-version 3.11 --generate-hashes \
    --no-emit-index-url --no-config --quiet --custom-compile-command "make lock" --extra build

.PHONY: lock
lock: $(STAMP) ## resolve the dependencies again (requirements/*.txt); ARGS=--upgrade for newer ones
	@$(UV_COMPILE) --output-file requirements/base.txt $(ARGS)
	$(UV_COMPILE) --extra local --extra dev --constraint requirements/base.txt \
	    --output-file requirements/all.txt $(ARGS)
	echo uv | $(subst pyproject.toml,-,$(subst --extra build,,$(UV_COMPILE))) --constraint requirements/all.txt \
	    --no-annotate --output-file requirements/uv.txt

.PHONY: lock-broker
lock-broker: $(STAMP) ## resolve the broker's jars again (ops/broker/jars.sha256)
	@exec $(BIN)/python -m ops.broker.relock

# Made once, and again when a lock or the project's own metadata changes.
# uv takes a third of pip's time, but does not read pip's configuration: where it fails, pip does the same.
LOCKED := --quiet --require-hashes --only-binary :all:

$(STAMP): requirements/all.txt requirements/uv.txt pyproject.toml
	@command -v $(PYTHON) >/dev/null || { \
	    echo "make: $(PYTHON) was not found; Python 3.11 to 3.13 is needed (make PYTHON=...)" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(not ((3, 11) <= sys.version_info[:2] < (3, 14)))' || { \
	    echo "make: $$($(PYTHON) --version) is not Python 3.11 to 3.13; name one with make PYTHON=..." >&2; exit 1; }
	@$(BIN)/python -c 'import pip' 2>/dev/null || $(PYTHON) -m venv --clear $(VENV) || { \
	    echo "make: $(PYTHON) cannot make a virtual environment; on Debian: apt-get install python3-venv" >&2; exit 1; }
	@echo "installing the locked dependencies into $(VENV)"
	@{ $(BIN)/python -m pip install $(LOCKED) -r requirements/uv.txt && \
	    $(BIN)/uv pip install --python $(BIN)/python --compile-bytecode $(LOCKED) -r requirements/all.txt; } || \
	    $(BIN)/python -m pip install $(LOCKED) -r requirements/all.txt
	@$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --no-index -e .
	@echo "compiling the user step (once)"
	@$(BIN)/python -c 'from streamer.steps.compiled import warm; warm()'
	@touch $@
