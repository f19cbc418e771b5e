# The same commands for people and for CI. PYTHON picks the interpreter that makes the environment.
PYTHON ?= python3
VENV ?= .venv
# Pinned here, a lower bound in setup.cfg: pip would otherwise fetch whatever torch is newest.
TORCH ?= torch==2.13.0
BIN := $(VENV)/bin

.PHONY: setup check test test-slow test-browser quickstart docs dist smoke clean

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

# As many processes as cores, of one thread each.
test: export OMP_NUM_THREADS = 1
test: setup
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 8 --dist loadfile

test-slow: setup
	$(BIN)/python -m pytest -m slow

# Needs Chromium: apt-get install chromium, or CHROMIUM=/path/to/chrome.
test-browser: setup
	$(BIN)/python -m pytest -m browser

# Offline, on what the repository carries: train, calibrate, test on generators never seen, score a photograph and a fake.
CARRIED := benchmarks/minibench/carried
OUT := outputs/mirage-tiny
EXAMPLE := $(CARRIED)/images/test/gcompris-erase-calf_0
quickstart: export HF_HUB_OFFLINE = 1
# One thread: the same numbers on every run, and hardly slower for so small a model.
quickstart: export OMP_NUM_THREADS = 1
quickstart: setup
	$(BIN)/python training/train.py training/recipes/mirage_tiny.yaml
	$(BIN)/mirage-hf calibrate --model $(OUT) --data $(CARRIED) --max-fpr 0.1
	$(BIN)/python training/evaluate.py --model $(OUT) --data $(CARRIED) --output_dir $(OUT)/test
	$(BIN)/mirage-hf predict $(EXAMPLE)_photo.jpg $(EXAMPLE)_realcugan.jpg --model $(OUT) --table

docs: setup
	$(BIN)/mkdocs build --strict --config-file docs/mkdocs.yml

dist: setup
	rm -rf dist build
	$(BIN)/python -m build --outdir dist

# The wheel with its runtime dependencies alone, in a fresh environment.
smoke: dist
	TORCH="$(TORCH)" $(BIN)/python tests/smoke_wheel.py dist

clean:
	rm -rf outputs build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache
