# Two commands for a fresh machine: `make bench` and `make test`. The README gives the same in plain commands.
PYTHON ?= python3
PROCESSES ?= $(shell nproc)
BIN := .venv/bin

.PHONY: bench test results check perf baseline gpu data
bench: .venv/installed data  ## train and time the quick sweep
	$(BIN)/torchrun --nproc-per-node $(PROCESSES) bench/run.py quick

test: .venv/installed data  ## all tests
	$(BIN)/pytest

results: .venv/installed  ## RESULTS.md and its figures, from the published records
	$(BIN)/python -m bench.report

check: .venv/installed  ## lint, types, and that RESULTS.md is what the records say
	$(BIN)/ruff check . && $(BIN)/mypy && $(BIN)/python -m bench.report --check

perf: .venv/installed data  ## timed regression checks, against a reference in the same run
	$(BIN)/pytest tests/perf --benchmark-enable --benchmark-only

baseline: .venv/installed data  ## what `make perf` compares with, for this machine, into tests/perf/baseline.json
	$(BIN)/pytest tests/perf --benchmark-enable --benchmark-only --write-baseline

gpu:  ## everything that needs a GPU, unattended; resumes
	bash experiments/gpu.sh

data:
	test -d /usr/share/datasets/fashion-mnist || test -n "$$FMNIST_DATA_DIR" || test -d data || { apt-get update && apt-get install -y dataset-fashion-mnist; }

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import ensurepip' || { apt-get update && apt-get install -y python3-venv; }
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@
