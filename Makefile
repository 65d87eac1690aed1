# Every target sets up .venv itself; a bare machine needs Python 3.11+, g++ and make.
SPEC ?= specs/nn/softmax.op
BUDGET ?= 12
BACKEND ?= cpp
OUT ?= out
ARGS ?=
TESTS ?=
WORKERS ?= 2
GPU_PYTHON ?= python3

SETUP = .venv/.stamp
BIN = .venv/bin

SUPPORT = PYTHONPATH=$(CURDIR)/.types:$(CURDIR)/tests $(BIN)/python -m

.PHONY: help setup compile test test-all agreement fuzz verifier interpreters lint format gallery bench bench-table gpu examples clean distclean

help:
	@echo "make compile SPEC=specs/nn/softmax.op   spec -> proved and measured wheel in $(OUT)/"
	@echo "make compile SPEC=... BACKEND=triton     Triton kernels or array code (jax) instead of C++"
	@echo "make test                               the test suite (TESTS=tests/ir for a part)"
	@echo "make test-all                           the same with every operator where make test samples"
	@echo "make agreement                          300 random specs on every backend (ARGS=--count 50)"
	@echo "make fuzz                               10,000 strange texts, plans and command lines"
	@echo "make verifier                           faults seeded into kernels: which gate finds which"
	@echo "make interpreters                       random Triton kernels: Triton's interpreter and ours"
	@echo "make lint                               ruff and mypy --strict"
	@echo "make gallery                            docs/gallery.md anew from specs/"
	@echo "make bench                              operators against torch, torch.compile, JAX, ONNX Runtime"
	@echo "make bench-table                        README's table anew from what make bench measured here"
	@echo "make gpu                                GPU candidates on this machine's NVIDIA GPU"
	@echo "make examples                           run examples/"
	@echo "make clean                              remove what the other targets made, but .venv"

setup: $(SETUP)

$(SETUP): requirements.lock pyproject.toml .ci/setup
	@PYTHON="$(PYTHON)" .ci/setup

compile: $(SETUP)
	$(BIN)/opwright compile $(SPEC) --backend $(BACKEND) --budget $(BUDGET) --out $(OUT) $(ARGS)

test: $(SETUP)
	$(BIN)/python -m pytest -q -n $(WORKERS) $(TESTS) $(ARGS)

test-all: export OPWRIGHT_TEST_ALL = 1
test-all: export OPWRIGHT_TEST_CACHE ?= $(CURDIR)/.pytest_cache/passed
test-all: test

agreement: $(SETUP)
	$(SUPPORT) support.agreement $(ARGS)

fuzz: $(SETUP)
	$(SUPPORT) support.fuzz $(ARGS)

verifier: $(SETUP)
	$(SUPPORT) opwright.benchmarks.verifier $(ARGS)

interpreters: $(SETUP)
	$(SUPPORT) support.random_triton $(ARGS)

lint: $(SETUP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(SETUP)
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

gallery: $(SETUP)
	$(BIN)/python -m opwright.gallery

bench: $(SETUP)
	$(BIN)/python -m opwright.benchmarks $(ARGS)

bench-table: $(SETUP)
	$(BIN)/python -m opwright.benchmarks --tables --readme README.md $(ARGS)

# no set-up: whatever Python here has torch with CUDA and Triton; .types holds the import root
gpu:
	@PYTHONPATH=$(CURDIR)/.types $(GPU_PYTHON) -m opwright.benchmarks.gpu $(ARGS) || { code=$$?; \
	  echo "make gpu: exit code $$code (1: a candidate is wrong, or no GPU; make itself exits with 2)" >&2; \
	  exit $$code; }

examples: $(SETUP)
	@set -e; for file in examples/*.py; do echo "== $$file"; $(BIN)/python $$file; done

clean:
	rm -rf $(OUT) build dist *.egg-info .opwright .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +

distclean: clean
	rm -rf .venv .venv.lock
