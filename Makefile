# Five words: setup, demo, test, lint, bench. CI calls the same.
# Each sets up all that it needs on a machine with python3 (3.11 or newer, with venv) and git.

PYTHON ?= python3
BIN := .venv/bin

.PHONY: setup demo test test-all lint bench golden clean

setup: .venv/installed

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[local,demo,test,lint]'
	touch $@

# Both jobs on this machine, then one report over both.
demo: setup
	$(BIN)/hpcllm run jobs/demo.yaml --ranks 2 --out runs/demo
	$(BIN)/hpcllm run jobs/translate.yaml --ranks 2 --out runs/translate
	$(BIN)/hpcllm report runs/demo runs/translate --out runs/report.html

test: setup
	$(BIN)/python -m pytest

# Every case, where `make test` has one of each of what takes minutes.
test-all: setup
	$(BIN)/python -m pytest --long

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: setup
	for benchmark in login status allreduce ddp_step lifecycle; do $(BIN)/python benchmarks/$$benchmark.py || exit 1; done

# Accept changed scripts after reading the difference: make golden && git diff tests/golden
golden: setup
	$(BIN)/python -m pytest -q tests/launch --accept-golden

clean:
	rm -rf .venv runs dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
