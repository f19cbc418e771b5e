# The same commands for people and for CI. PYTHON picks the interpreter that makes the environment.
PYTHON ?= python3
VENV ?= .venv
# Pinned here, a lower bound in setup.cfg: pip would otherwise fetch whatever torch is newest.
TORCH ?= torch==2.13.0
BIN := $(VENV)/bin

.PHONY: setup check test test-slow quickstart clean

setup: $(VENV)/.installed

$(VENV)/.installed: setup.cfg pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet "$(TORCH)"
	$(BIN)/python -m pip install --quiet --editable ".[dev]"
	touch $@

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: setup
	$(BIN)/python -m pytest

test-slow: setup
	$(BIN)/python -m pytest -m slow

quickstart: setup
	$(BIN)/python training/quickstart.py

clean:
	rm -rf outputs build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache
