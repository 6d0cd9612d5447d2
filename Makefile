# make study   the main job on this machine: what does a second device buy?
# make test    lint, types and all tests
# make quick   the tests that take seconds
# make bench   ourselves against peers, as ratios
# The first call makes .venv and installs the pinned packages; later calls install nothing.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
OUT ?= out
CORE := $(VENV)/.core-installed
DEV := $(VENV)/.dev-installed

.PHONY: study test quick bench lint clean

study: $(CORE)
	$(BIN)/worldsize study --preset tiny --nproc 1,2 --repeats 3 --out $(OUT)/study

test: lint
	$(BIN)/pytest

quick: lint
	$(BIN)/pytest -m "not slow"

lint: $(DEV)
	$(BIN)/ruff check src tests benchmarks docs
	$(BIN)/ruff format --check src tests benchmarks docs
	$(BIN)/mypy

bench: $(DEV)
	$(BIN)/python -m benchmarks --out $(OUT)/bench

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(CORE): $(VENV)/bin/python pyproject.toml constraints.txt
	$(BIN)/pip install --quiet -c constraints.txt -e .
	touch $@

$(DEV): $(CORE)
	$(BIN)/pip install --quiet -c constraints.txt -e ".[dev,hf,eval,quant,bench,pdf,modal,deepspeed]"
	touch $@

clean:
	rm -rf $(VENV) $(OUT)
