# One verb per task; `make help` lists them. Needs only make and Python 3.11 or newer with venv and pip.

PYTHON ?= $(shell for p in python3 python3.11 python3.12 python3.13 python3.14; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 15))' >/dev/null 2>&1 && echo $$p && break; done)
VENV ?= .venv
BIN := $(VENV)/bin
ARGS ?=
PYTEST_ARGS ?= -n 4
PIP := PIP_DISABLE_PIP_VERSION_CHECK=1 $(BIN)/python -m pip install --quiet --require-virtualenv

# A stamp is named after what it stands for: a changed lock file or pyproject.toml is another stamp.
RUN_KEY := $(shell cat requirements/litellm.txt requirements/build.txt pyproject.toml | cksum | cut -d' ' -f1)
DEV_KEY := $(shell cat requirements/dev.txt pyproject.toml | cksum | cut -d' ' -f1)
RUN_STAMP := $(VENV)/.run-$(RUN_KEY)
DEV_STAMP := $(VENV)/.dev-$(DEV_KEY)

# Modules that are compiled anew make each start one or two seconds longer.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help setup run demo test check lint types bench schema docs lock wheel clean

help: ## list the verbs
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(DEV_STAMP) ## make .venv with everything that development needs

run: $(RUN_STAMP) ## serve; without a key or a configuration, simulated providers answer
	@$(BIN)/faregate serve $(ARGS)

demo: $(RUN_STAMP) ## watch teams, budgets and an outage in the terminal, simulated
	@$(BIN)/faregate demo $(ARGS)

test: $(DEV_STAMP) ## run all tests
	$(BIN)/python -m pytest $(PYTEST_ARGS)

check: lint types ## every gate: lint, types, generated files, all tests with coverage
	$(BIN)/python -m router.docs --check
	$(BIN)/python -m coverage erase
	$(BIN)/python -m coverage run -m pytest $(PYTEST_ARGS)
	$(BIN)/python -m coverage combine --quiet
	$(BIN)/python -m coverage report --fail-under=95
	$(BIN)/python -m coverage report --fail-under=100 --include='policies/*,router/domain/*'

lint: $(DEV_STAMP) ## ruff, formatting and the import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-cache

types: $(DEV_STAMP) ## mypy --strict
	$(BIN)/mypy

bench: $(DEV_STAMP) ## measure what the proxy adds; prints a table
	$(BIN)/python -m benchmarks.overhead $(ARGS)

schema: $(DEV_STAMP) ## write config/router.schema.json
	$(BIN)/faregate schema > config/router.schema.json

docs: $(DEV_STAMP) ## write the generated pages in docs/reference
	$(BIN)/python -m router.docs

lock: $(DEV_STAMP) ## write the lock files; ARGS=--upgrade takes newer releases
	UV=$(BIN)/uv requirements/lock $(ARGS)

wheel: $(DEV_STAMP) ## build the wheel into dist/
	$(BIN)/python -m pip wheel --quiet --no-deps --no-build-isolation --wheel-dir dist .

clean: ## remove everything that can be made again, .venv included
	rm -rf $(VENV) build dist .coverage .coverage.* .hypothesis .mypy_cache .pytest_cache .ruff_cache .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "Python 3.11 to 3.14 was not found. Name one: make PYTHON=/path/to/python" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "$(PYTHON) has no venv. On Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }
	$(PYTHON) -m venv --clear $(VENV)

# $(1): the lock files, which are whole: nothing but what stands in them is installed. Older stamps go first: what they stood for is overwritten.
define install
	@echo "Installing into $(VENV); this takes a minute or two, once."
	@rm -f $(VENV)/.run-* $(VENV)/.dev-*
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(BIN)/python -m ensurepip --default-pip
	@$(PIP) --require-hashes --no-deps $(foreach lock,$(1),-r requirements/$(lock).txt)
	@$(PIP) --no-deps --no-build-isolation --editable .
endef

$(DEV_STAMP): | $(BIN)/python
	$(call install,dev)
	@touch $@

# What `make run` needs is part of what development needs: such an environment is left as it is.
ifeq ($(wildcard $(DEV_STAMP)),)
$(RUN_STAMP): | $(BIN)/python
	$(call install,litellm build)
	@touch $@
else
$(RUN_STAMP):
	@touch $@
endif
