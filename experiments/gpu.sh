#!/usr/bin/env bash
# Everything that needs a GPU, unattended, most valuable first. Ends when all is there; the same command goes on.
#   bash experiments/gpu.sh [STORE [STAGE...]]        stages: equality speed trials rest fast timings peers recipes cited
# To publish its records: for f in STORE/*.jsonl; do cat "$f" >> experiments/results/$(basename "$f"); done
#   cp STORE/*-*.json experiments/results; make results
set -uo pipefail
cd "$(dirname "$0")/.."
STORE=${1:-runs/gpu}
STAGES=${*:2}
ALL="equality speed trials rest fast timings peers recipes cited"
for stage in $STAGES; do
    [[ " $ALL " == *" $stage "* ]] || { echo "gpu.sh: no stage '$stage'; allowed: $ALL" >&2; exit 2; }
done
if [[ " $ALL " == *" $STORE "* ]]; then echo "gpu.sh: '$STORE' is a stage; name the store first" >&2; exit 2; fi
PYTHON=${PYTHON:-.venv/bin/python}
PROCESSES=${PROCESSES:-2}  # that share the GPU while accuracy alone is asked for: one evaluates while one trains
mkdir -p "$STORE"
export PYTHONUNBUFFERED=1 PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH}
failed=()
trap 'exit 130' INT; trap 'exit 143' TERM  # bash goes on after a program that itself ends on Ctrl-C
step() {  # NAME COMMAND...: a log of its own, and its seconds; a failure is noted and the rest goes on
    # tee -i: on Ctrl-C the command still has somebody to write to while it saves its checkpoint
    local start=$SECONDS
    echo "== $1"; "${@:2}" 2>&1 | tee -ai "$STORE/$1.log" || failed+=("$1")
    echo "== $1: $((SECONDS - start)) s" | tee -a "$STORE/seconds.log"
}
alone() { step "$1" "$PYTHON" bench/run.py "${@:2}" --store "$STORE" --set launch.device=cuda; }
together() {  # under MPS at the same instant; with 6 processes, fused seeds fill an H200 and only wait for each other
    step "$1" "$PYTHON" -m torch.distributed.run --standalone --nproc-per-node "$PROCESSES" bench/run.py "${@:2}" \
        --store "$STORE" --timings 0 --set launch.device=cuda
}
wanted() { [ -z "$STAGES" ] || [[ " $STAGES " == *" $1 "* ]]; }
share() {  # the multi-process service, where it is installed
    command -v nvidia-cuda-mps-control > /dev/null || return 0
    if [ "$1" = start ]; then
        CUDA_MPS_PIPE_DIRECTORY=$(mktemp -d)
        export CUDA_MPS_PIPE_DIRECTORY CUDA_MPS_LOG_DIRECTORY=$CUDA_MPS_PIPE_DIRECTORY
        nvidia-cuda-mps-control -d && timeout 60 "$PYTHON" -c "import torch; torch.zeros(1).cuda()" || share stop
    elif [ -n "${CUDA_MPS_PIPE_DIRECTORY:-}" ]; then
        echo quit | nvidia-cuda-mps-control
        unset CUDA_MPS_PIPE_DIRECTORY CUDA_MPS_LOG_DIRECTORY
    fi
}
captured=(--set execution.capture=true)

nvidia-smi --query-gpu=name,driver_version,power.limit,clocks.max.sm --format=csv | tee "$STORE/gpu.csv"

# Is it right? Equality and waits first, without the timing tests; a failure here is the first thing to read. One of
# them is deterministic, which cuBLAS must be told before its first product, whichever test makes it.
wanted equality && step equality env CUBLAS_WORKSPACE_CONFIG=:4096:8 "$PYTHON" -m pytest -q tests/test_gpu.py tests/test_kernels.py \
    tests/test_checkpoint.py::test_fp16_on_a_gpu_resumes_with_its_scale_and_its_generator -k "not speed and not choice"
# How fast: eager, captured, fused (1 to 64 seeds), each precision and memory format.
wanted speed && step speed "$PYTHON" -m pytest -q -s tests/test_gpu.py -k "speed or choice"
trap 'share stop > /dev/null 2>&1' EXIT
if wanted trials || wanted rest; then share start; fi
# The two goals with a clock on them: the report's fourteen trials x 16 seeds; kernel x depth x 16 seeds.
if wanted trials; then
    together trials table_1_1 table_1_2 "${captured[@]}"
    together kernel_depth kernel_depth "${captured[@]}"
fi
# All other experiments on plain sequences, accuracy only.
wanted rest && together rest kernel_size_network1 kernel_size_network2 batch_size dropout feature_maps fc_layers \
    activation batch_norm learning_rate loss optimizer stride input_size network1_printed network2_printed final depth \
    augmentation "${captured[@]}"
# With the machine to themselves. Time to accuracy; timings, captured, and of the final network eager ones beside.
share stop
if wanted fast; then
    alone fast-choice beyond_fast_gpu --only data.validation_size=10000 --timings 0
    for goal in 0.94 0.95; do
        label=$("$PYTHON" -m bench.chosen beyond_fast_gpu "$goal" --store "$STORE") || { failed+=("chosen-$goal"); continue; }
        alone "fast-$goal" beyond_fast_gpu --only "label=$label" --seeds 30 --timings 0
    done
fi
if wanted timings; then
    alone timings-captured final kernel_depth table_1_1 table_1_2 --seeds 1 "${captured[@]}"
    alone timings-eager final --seeds 1
    for name in calibrate scaling ledger; do step "$name" "$PYTHON" -m "bench.$name" --store "$STORE"; done
    for name in kernel_size_network1 kernel_size_network2 kernel_depth; do
        step "turns-$name" "$PYTHON" -m bench.turns --experiment "$name" --store "$STORE" "${captured[@]}"
    done
fi
wanted peers && step peers "$PYTHON" -m bench.peers --store "$STORE"
# Large networks fill a GPU: one at a time. The recipes, their results first; of every cited system one seed, then all.
large() { alone "$1" "${@:2}" --timings 0 "${captured[@]}"; }
if wanted recipes; then
    large results beyond_small beyond_small_gpu beyond_best --only "label=the recipe, all 60,000 images"
    large parts beyond_fast_gpu_parts
    large recipes beyond_small beyond_small_gpu beyond_best
fi
if wanted cited; then
    cited=$(cd experiments && ls cited_*.toml | sed 's/[.]toml$//' | grep -v non_neural)
    for name in $cited; do large "$name-first" "$name" --seeds 1; done
    for name in $cited; do large "$name" "$name"; done
fi
[ -n "$STAGES" ] || step report "$PYTHON" -m bench.report --store "$STORE" --output "$STORE/RESULTS.md"
echo "failed: ${failed[*]:-nothing}"
[ ${#failed[@]} -eq 0 ]
