#!/usr/bin/env bash
# Everything that needs a GPU, in the order of its worth, unattended. Each part can be cut off and resumes.
#   bash experiments/gpu.sh [STORE]       default store: experiments/results
set -uo pipefail
cd "$(dirname "$0")/.."
store=${1:-experiments/results}
python=${PYTHON:-python3}
export PYTHONPATH=$PWD PYTHONUNBUFFERED=1
nvidia-smi --query-gpu=name,driver_version --format=csv,noheader || exit 1

part() { echo "== $*"; "$@" || echo "== failed ($?): $*"; }
part "$python" -m pytest -m gpu -rA -q tests
part "$python" -m bench.ledger --store "$store"
part "$python" -m bench.peers --store "$store"
for experiment in kernel_depth table_1_2 table_1_1 final kernel_size_network1 kernel_size_network2; do
    part "$python" bench/run.py "$experiment" --set execution.capture=true --store "$store"
done
for experiment in depth fc_layers feature_maps stride batch_size learning_rate dropout activation optimizer batch_norm \
                  augmentation loss input_size network1_printed network2_printed; do
    part "$python" bench/run.py "$experiment" --set execution.capture=true --store "$store" --untimed
done
part "$python" -m bench.calibrate --store "$store"
part "$python" bench/run.py cited_kefth_simplenet cited_agarap cited_bhatnagar cited_mcnn15 cited_resnet18 --store "$store"
