# `make` alone lists the targets. Everything runs in .venv, which is made when it is missing or old.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

# One thread per process: the test processes would otherwise fight for the cores.
export OMP_NUM_THREADS ?= 1
export OMP_WAIT_POLICY ?= PASSIVE

.DEFAULT_GOAL := help
.PHONY: help install demo docs test test-browser test-deepspeed test-vllm check style clean

help:  ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## */  make \1\t/p' Makefile | expand -t 23

install: $(READY)  ## make the environment

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("abhinaya needs Python 3.11 or newer: make PYTHON=python3.11") if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	touch $(READY)

demo: $(READY)  ## a tiny corpus, tiny members, a vote, a submission
	$(BIN)/python -m abhinaya.demo

test: $(READY)  ## all tests, the slow ones too
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m "slow or not slow"

test-browser: $(READY)  ## the report and the web page in a real browser
	.ci/test-browser $(BIN)/python

test-vllm: $(READY)  ## the zero-shot language model against a real vLLM on the CPU
	.ci/test-vllm $(BIN)/python

test-deepspeed: $(READY)  ## two processes under DeepSpeed on the CPU
	.ci/test-deepspeed $(BIN)/python

docs: $(READY)  ## the site of documentation, in site/
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet

check: $(READY)  ## only look: style, spelling, types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell
	$(BIN)/mypy

style: $(READY)  ## repair what can be repaired
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/codespell --write-changes

clean:  ## remove the environment and caches
	rm -rf $(VENV) .venv-browser .venv-deepspeed .venv-vllm build dist site *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
