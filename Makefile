# make demo: compile, train and sample the small Griffin. make test: the whole suite. Both need Python 3.11 to 3.13 and make.

FITS   := import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do $$p -c '$(FITS)' 2>/dev/null && echo $$p && break; done)
VENV   := .venv
BIN    := $(VENV)/bin
RUN    ?= runs/demo
DEMO   := --steps 800 --batch 8 --lr 3e-3 --warmup 100 --resume
FAST   := text elaborate passes ops golden report cli house specs equations tasks

.PHONY: help setup demo test fast check format clean

help:
	@grep -E '^# make' Makefile
	@echo "also: make check (lint, types), make fast (tests that need no framework), make format, make clean"

setup: $(VENV)/.ready

# torch first and by itself: where a CPU build is offered it is taken, and nothing after it replaces it.
$(VENV)/.ready: pyproject.toml constraints.txt
	@$(or $(PYTHON),false) -c '$(FITS)' || { echo "archc needs Python 3.11 to 3.13; name one with make PYTHON=..." >&2; exit 1; }
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[torch,jax,dev]'
	@touch $@

demo: setup
	$(BIN)/archc train griffin:tiny --backend torch -o $(RUN) $(DEMO)
	$(BIN)/archc report griffin:tiny
	$(BIN)/archc generate $(RUN) --prompt "def "

# Two workers, a half of the tests each and then whatever the other has left: neighbours share what they compile.
PYTEST := $(BIN)/python -m pytest -q -n 2 --dist worksteal
test fast: export OMP_NUM_THREADS := 1

test: fast
	$(PYTEST) $(addprefix --ignore=tests/,$(FAST))

fast: setup
	$(PYTEST) $(wildcard $(addprefix tests/,$(FAST)))

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	./.ci/wheel $(BIN)

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
