# Everything starts from a clean clone: each target sets up what it needs, once.
#   MODEL      another model than the embedded one, for demo and real, as in: make demo MODEL=smollm2-135m
#   ARGS       further arguments of the command behind the target, as in: make test ARGS="-k formats"
#   BUILDER    what docs makes (default: html)
#   WORKERS    processes that run the tests (default: one more than cores, four at most)
#   PYTHON     the interpreter to build .venv with (default: the newest of 3.11 to 3.14 that can make one)
SHELL := /bin/bash
VENV := .venv
PY := $(VENV)/bin/python
PACKAGES := $(VENV)/.packages
# Jupyter refuses to run as root unless told so, and without a home directory that it can write.
ALLOW_ROOT := $(if $(filter 0,$(shell id -u)),--allow-root)

# Real checkpoints and texts for measurements; tests that need them are skipped without them.
export WORKBENCH_SHARED ?= $(abspath ../shared)

# Names of the catalogue are fetched; a folder or a hub id has a slash.
FETCH = $(if $(findstring /,$(MODEL)),,$(PY) -m workbench.cli fetch $(MODEL))
# WikiText-2, which the hub has as well.
REAL_TEXT := $(or $(addprefix --text ,$(wildcard $(WORKBENCH_SHARED)/data/wiki.test.raw)),--dataset wikitext2)

BUILDER ?= html

TSC := tests/support/node_modules/typescript/bin/tsc

# Each computes on one thread: PyTorch's and lavapipe's would wait for each other. One more than there are cores, since a
# fifth of their time tests wait for browsers and processes that they have started.
WORKERS ?= $(shell n=$$(getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2); echo $$((n < 4 ? n + 1 : 4)))

.DEFAULT_GOAL := help
.PHONY: help setup demo real test test-all wheel-check lab bench docs links lint
.NOTPARALLEL:

help:  ## list the targets
	@sed -n 's/^\([a-z-]*\):.*##  */\1\t/p' $(MAKEFILE_LIST) | expand -t 13

$(PACKAGES): pyproject.toml .ci/setup
	@.ci/setup packages

setup: $(PACKAGES)  ## all set-up of the other targets and nothing else
	@.ci/setup vulkan browser node tint

demo: $(PACKAGES)  ## the guided tour on the embedded model
	@.ci/setup vulkan
	@$(if $(MODEL),$(FETCH))
	@$(PY) -m workbench.cli demo $(if $(MODEL),--model $(MODEL)) $(ARGS)

real: MODEL ?= smollm2-135m
real: $(PACKAGES)  ## what formats cost a real language model, on WikiText-2
	@.ci/setup vulkan
	@$(FETCH)
	@$(PY) -m workbench.cli demo --model $(MODEL) --formats int8 int4/64 int2/64 $(REAL_TEXT) \
	--protocol disjoint-512 --tokens 2048 --repetitions 2 --output runs/real $(ARGS)

test: lint  ## what lint checks, then the tests but for those that play whole products for minutes
	@.ci/setup vulkan browser
	@OMP_NUM_THREADS=1 LP_NUM_THREADS=1 $(PY) -m pytest -n $(WORKERS) --dist worksteal $(ARGS)

test-all: override ARGS += --release
test-all: test  ## what lint checks, then all tests: before a release

wheel-check: $(PACKAGES)  ## the wheel, installed into an empty environment and used from an empty folder
	@.ci/setup vulkan
	@.ci/wheel $(ARGS)

lab: $(PACKAGES)  ## JupyterLab in notebooks/
	@.ci/setup vulkan
	@[ -w "$$HOME" ] || export HOME=$$(mktemp -d); \
	$(PY) -m jupyter lab notebooks/ $(ALLOW_ROOT) $(ARGS)

bench: $(PACKAGES)  ## the benchmarks on this machine's adapter
	@.ci/setup vulkan
	@$(PY) -m workbench.cli bench $(ARGS)

docs: $(PACKAGES)  ## the documentation site, in build/docs/html
	@.ci/setup docs
	@$(PY) -m sphinx -W --keep-going -E -q -b $(BUILDER) -c docs -d build/docs/doctrees $(ARGS) . build/docs/$(BUILDER)
	@echo "build/docs/$(BUILDER)"

links:  ## whether every link of the documentation to elsewhere answers
	@$(MAKE) --no-print-directory docs BUILDER=linkcheck

lint: $(PACKAGES)  ## ruff, formatting, import contracts, types of Python and of the page's JavaScript
	@.ci/setup node tint
	@$(PY) -m ruff check
	@$(PY) -m ruff format --check
	@$(VENV)/bin/lint-imports
	@if $(PY) -m pyright --version >/dev/null 2>&1; then $(PY) -m pyright; else \
	echo "lint: pyright could not be fetched (is the npm registry out of reach?): types were not checked" >&2; fi
	@if [ -e $(TSC) ]; then node $(TSC) -p tests/support; else \
	echo "lint: TypeScript is not installed ($(TSC)): the page's types were not checked" >&2; fi
