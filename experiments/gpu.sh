#!/usr/bin/env bash
# Everything that needs a GPU, unattended, most valuable first. Ends when all is there; the same command goes on.
#   bash experiments/gpu.sh [STORE]
set -uo pipefail
cd "$(dirname "$0")/.."
STORE=${1:-runs/gpu}
PYTHON=${PYTHON:-.venv/bin/python}
mkdir -p "$STORE"
export PYTHONUNBUFFERED=1 PYTHONPATH=$PWD
failed=()
step() {  # NAME COMMAND...: a log of its own; a failure is noted and the rest goes on
    echo "== $1"; "${@:2}" 2>&1 | tee "$STORE/$1.log" || failed+=("$1")
}
sweep() { step "sweep-$1" "$PYTHON" bench/run.py "$1" --store "$STORE" --set launch.device=cuda "${@:2}"; }

nvidia-smi --query-gpu=name,driver_version,power.limit,clocks.max.sm --format=csv | tee "$STORE/gpu.csv"

# 1. Is it right? Equality and waits first, without the timing tests; a failure here is the first thing to read.
step equality "$PYTHON" -m pytest -m gpu -q tests/test_gpu.py -k "not speed and not choice"
# 2. How fast: eager, captured (1, 4 and 16 steps a replay), fused (2 to 32 seeds), each precision and memory format.
step speed "$PYTHON" -m pytest -m gpu -q -s tests/test_gpu.py -k "speed or choice"
# 3. The two goals with a clock on them: the report's fourteen trials x 16 seeds; kernel x depth x 16 seeds.
capture=(--set execution.capture=true --untimed)
time sweep table_1_1 "${capture[@]}"
time sweep table_1_2 "${capture[@]}"
time sweep kernel_depth "${capture[@]}"
# 4. All other experiments on plain sequences, accuracy only.
for name in final network1_printed network2_printed kernel_size_network1 kernel_size_network2 depth feature_maps \
            fc_layers activation batch_norm batch_size dropout learning_rate loss optimizer stride input_size augmentation; do
    sweep "$name" "${capture[@]}"
done
# 5. Cited systems: large ones alone, some cannot be captured.
for path in experiments/cited_*.toml; do sweep "$(basename "$path" .toml)" --untimed; done
# 6. Timings, the machine to themselves: eager, then captured (another speed key, so both stay).
for name in kernel_depth final table_1_1 table_1_2; do
    sweep "$name" --seeds 1
    sweep "$name" --seeds 1 --set execution.capture=true
done
for name in calibrate scaling peers ledger; do
    step "$name" "$PYTHON" -m "bench.$name" --store "$STORE"
done
# 7. The recipes beyond the report, each with its ablation.
for name in beyond_best beyond_small; do sweep "$name" --untimed; done
step report "$PYTHON" -m bench.report --store "$STORE" --output "$STORE/RESULTS.md"
echo "failed: ${failed[*]:-nothing}"
[ ${#failed[@]} -eq 0 ]
