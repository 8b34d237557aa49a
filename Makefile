# Two commands for a fresh machine: `make bench` and `make test`. The README gives the same in plain commands.
PYTHON ?= python3
PROCESSES ?= $(shell nproc)
BIN := .venv/bin
# One thread: two that wait for each other are slowed by any other process, and by luck.
PERF = OMP_NUM_THREADS=1 $(BIN)/pytest tests/perf --benchmark-enable --benchmark-only

.PHONY: bench test results check perf baseline gpu data
bench: .venv/installed data  ## train and time the quick sweep
	$(BIN)/torchrun --nproc-per-node $(PROCESSES) bench/run.py quick

test: .venv/installed data  ## all tests, as many at a time as there are cores
	$(BIN)/pytest -n $(PROCESSES) --maxprocesses 16 --dist worksteal

results: .venv/installed  ## RESULTS.md and its figures, from the published records
	$(BIN)/python -m bench.report

check: .venv/installed  ## lint, types, and that RESULTS.md is what the records say
	$(BIN)/ruff check . && $(BIN)/mypy && $(BIN)/python -m bench.report --check

perf: .venv/installed data  ## timed regression checks: training against a reference in the same run, the harness by bounds
	$(PERF)

baseline: .venv/installed data  ## what `make perf` compares with on this machine, into tests/perf/baseline.json
	for i in 1 2 3 4 5 6 7 8; do $(PERF) -k 'not harness' --write-baseline || exit 1; done

gpu:  ## everything that needs a GPU, unattended; resumes
	bash experiments/gpu.sh

data:
	test -d /usr/share/datasets/fashion-mnist || test -n "$$FMNIST_DATA_DIR" || ls data/FashionMNIST/raw/train-images* > /dev/null 2>&1 || ls data/train-images* > /dev/null 2>&1 || { apt-get update && apt-get install -y dataset-fashion-mnist; }

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import ensurepip' || { apt-get update && apt-get install -y python3-venv; }
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@
