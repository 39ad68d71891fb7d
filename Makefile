# The whole of a contributor's vocabulary. Every target works from a clean clone.

PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	"$$p" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo "$$p" && break; done)
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DEMO_STAMP := $(VENV)/.installed-for-demo
SOURCES := pyproject.toml setup.py constraints.txt $(wildcard csrc/*.* csrc/*/*.*) mrda/pyproject.toml
# Python compiles what it imports; compiling all that is installed takes most of a minute.
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile --constraint constraints.txt
# Processes of the tests: one for each core, but no more than eight, so that their memory suffices.
WORKERS ?= $(shell "$(PYTHON)" -c 'import os; print(min(8, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()))' 2>/dev/null)
PYTEST := $(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadgroup --no-loadscope-reorder

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-quick lint docs bench gpu leg wheel clean

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):[^#]*## */\1\t/' | awk -F'\t' '{printf "make %-11s %s\n", $$1, $$2}'

setup: $(STAMP)  ## make .venv, build the extension, install everything the other targets need

$(BIN)/python:
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { echo "setup: Python 3.11 or newer is needed$(if $(PYTHON), and $(PYTHON) is not that,); install it, or name it: make setup PYTHON=/path/to/python3"; exit 1; }
	@"$(PYTHON)" -c 'import ensurepip, venv' 2>/dev/null || { echo "setup: $(PYTHON) cannot make virtual environments; install its venv package (Debian: apt-get install python3-venv)"; exit 1; }
	@cxx="$${CXX:-$$(command -v g++ || command -v clang++ || command -v c++)}"; test "$(MRDA_KERNELS_NATIVE)" = 0 || command -v "$${cxx%% *}" >/dev/null || { echo "setup: no C++ compiler$${CXX:+ $$CXX} found; install g++ or clang++ (Debian: apt-get install g++), or go without the fast kernels: make setup MRDA_KERNELS_NATIVE=0"; exit 1; }
	@"$(PYTHON)" -c 'import os, sysconfig; raise SystemExit(not os.path.exists(sysconfig.get_path("include") + "/Python.h"))' || test "$(MRDA_KERNELS_NATIVE)" = 0 || { echo "setup: Python.h is missing; install Python's headers (Debian: apt-get install python3-dev)"; exit 1; }
	"$(PYTHON)" -m venv $(VENV)

$(STAMP): $(SOURCES) | $(BIN)/python
	MRDA_KERNELS_EMULATION=1 $(INSTALL) --editable '.[dev,docs,triton]' --editable './mrda[app,demo,export,figures,formats]'
	@touch $@

# Without a GPU the demo needs no CUDA kernels. Its first imports, which compile Python's files, belong to the set-up.
$(DEMO_STAMP): $(SOURCES) | $(BIN)/python
	MRDA_KERNELS_CUDA=$${MRDA_KERNELS_CUDA-$$(command -v nvidia-smi >/dev/null || echo 0)} $(INSTALL) --editable . --editable './mrda[demo]'
	$(BIN)/python examples/demo.py --help >/dev/null
	@touch $@

demo: $(if $(wildcard $(STAMP)),$(STAMP),$(DEMO_STAMP))  ## upscale photos with the shipped weights, train a small MRDA, time the operator (two minutes)
	$(BIN)/python examples/demo.py

test: setup  ## run the whole test suite, on all cores
	$(PYTEST)

test-quick: setup  ## run the tests that take no more than a few seconds each
	$(PYTEST) -m "not slow"

lint: setup  ## check style, formatting, types, and which package imports which
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/mypy

docs: setup  ## build the documentation's site into site/, with the page that enlarges photos if npm is there
	$(BIN)/python docs/try/parts.py build/try
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

bench: setup  ## time everything against its peers; write benchmarks/results/ and the tables of README and docs
	$(BIN)/python benchmarks/rda_conv.py --json benchmarks/results/rda_conv_cpu.json
	$(BIN)/python benchmarks/rda_conv.py --quick --keep-memory --json benchmarks/results/rda_conv_cpu_kept_memory.json
	$(BIN)/python benchmarks/calls.py --json benchmarks/results/calls_cpu.json
	$(BIN)/python benchmarks/rda_block.py --quick --json benchmarks/results/rda_block_cpu.json
	$(BIN)/python benchmarks/model.py --quick --json benchmarks/results/model_cpu.json
	$(BIN)/python benchmarks/model.py --quick --changes --json benchmarks/results/changes_cpu.json
	$(BIN)/python benchmarks/training.py --json benchmarks/results/training_cpu.json
	$(BIN)/python -m benchmarks.tables

gpu:  ## on a machine with an NVIDIA GPU: build for it, test on it, measure it, in nine minutes; installs nothing
	@"$(PYTHON)" -c 'import torch' 2>/dev/null || { echo "gpu: $(if $(PYTHON),$(PYTHON) has no torch,there is no Python 3.11 or newer); name one that has: make gpu PYTHON=/path/to/python3"; exit 1; }
	"$(PYTHON)" benchmarks/gpu.py

PHOTOS ?= photos
MINUTES ?= 150
THREADS ?= 1
LEG ?= mrda-x4-start
RUN ?= runs/$(LEG)
FROM ?= $(if $(filter %-start,$(LEG)),,$(if $(filter mrda-x4,$(LEG)),runs/mrda-x4-start/teacher/weights.safetensors,mrda/weights_data/mrda-x4.safetensors))
leg: setup  ## train LEG (mrda-x4-start, mrda-x4, -noise, -real or mrda-x2) on the folder PHOTOS with THREADS threads (1), from the weights FROM (the shipped mrda-x4; for itself those of -start, which begins from none), with the options SET='KEY=VALUE ...', in parts of MINUTES; the state stays in RUN
	OMP_NUM_THREADS=$(THREADS) timeout --signal=INT $(MINUTES)m $(BIN)/mrda train --config release/$(LEG) \
		--set 'data.sources=[$(PHOTOS)]' $(if $(FROM),--set teacher.init_network=$(FROM)) $(foreach option,$(SET),--set $(option)) \
		--run-dir $(RUN) || test $$? -eq 124

wheel: setup .build/wheel/.installed  ## build both wheels into dist/, repaired for other machines, and try the operator's without a compiler
	.build/wheel/bin/python tools/wheel.py --python $(BIN)/python

.build/wheel/.installed: tools/wheel.txt | $(BIN)/python
	$(BIN)/python -m venv .build/wheel
	.build/wheel/bin/python -m pip install --quiet --disable-pip-version-check --requirement tools/wheel.txt
	@touch $@

clean:  ## remove the environment and everything built
	rm -rf $(VENV) .build build dist kernels site *.egg-info mrda/*.egg-info mrda_kernels/*.so
