# Everything starts from a clean clone: each target sets up what it needs, once.
#   ARGS       further arguments of the command behind the target, as in: make test ARGS="-k formats"
#   PYTHON     the interpreter to build .venv with (default: the newest of 3.11 to 3.14 that can make one)
SHELL := /bin/bash
VENV := .venv
PY := $(VENV)/bin/python
PACKAGES := $(VENV)/.packages
# Jupyter refuses to run as root unless told so, and without a home directory that it can write.
ALLOW_ROOT := $(if $(filter 0,$(shell id -u)),--allow-root)

# Real checkpoints and texts for measurements; tests that need them are skipped without them.
export WORKBENCH_SHARED ?= $(abspath ../shared)

.DEFAULT_GOAL := help
.PHONY: help setup demo test lab bench lint
.NOTPARALLEL:

help:  ## list the targets
	@sed -n 's/^\([a-z]*\):.*##  */\1\t/p' $(MAKEFILE_LIST) | expand -t 10

$(PACKAGES): pyproject.toml .ci/setup
	@.ci/setup packages

setup: $(PACKAGES)  ## all set-up of the other targets and nothing else
	@.ci/setup vulkan browser tint

demo: $(PACKAGES)  ## the guided tour on the embedded model
	@.ci/setup vulkan
	@$(PY) -m workbench.cli demo $(ARGS)

test: $(PACKAGES)  ## the tests
	@.ci/setup vulkan browser tint
	@$(PY) -m pytest $(ARGS)

lab: $(PACKAGES)  ## JupyterLab in notebooks/
	@.ci/setup vulkan
	@[ -w "$$HOME" ] || export HOME=$$(mktemp -d); \
	$(PY) -m jupyter lab notebooks/ $(ALLOW_ROOT) $(ARGS)

bench: $(PACKAGES)  ## the benchmarks on this machine's adapter
	@.ci/setup vulkan
	@$(PY) -m workbench.cli bench $(ARGS)

lint: $(PACKAGES)  ## ruff, formatting and import contracts
	@$(PY) -m ruff check
	@$(PY) -m ruff format --check
	@$(VENV)/bin/lint-imports
