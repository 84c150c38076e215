#!/usr/bin/env bash
# One teacher for so many minutes on a GPU, from a checkout in which leanvc can be imported.
#
#   recipes/teachers/on_a_gpu.sh CODEC CLIPS MINUTES OUT [key=value ...]
#
# CODEC: dcvc, dcvc_hem, dcvc_hem_intra or fvc. CLIPS: a folder of training clips; they are decoded
# once into memory. The weights (averaged, float16) end in OUT in pieces of at most 15 MiB, which
# `cat` puts together again, beside the log. Going on from earlier weights takes
# codec.checkpoint=FILE and phases without the early stages:
#
#   recipes/teachers/on_a_gpu.sh dcvc_hem clips 8 out codec.checkpoint=dcvc_hem_base.safetensors \
#       'train.phases=[{stage: joint, steps: 4000, learning_rate: 4.0e-4, final_rate: 0.5},
#                      {stage: unrolled, steps: 4000, learning_rate: 2.0e-4}]'
set -euo pipefail
codec=$1 clips=$2 minutes=$3 out=$4
shift 4
python=${PYTHON:-python3}
work=${WORK:-/dev/shm}/leanvc
mkdir -p "$out" "$work"
"$python" -m prune.prepare "$clips" "$work/clips"
"$python" -m prune.train "recipes/teachers/${codec}_base.yaml" \
    "data.train=[{path: $work/clips}]" "data.eval=$work/clips" "output=$work/$codec" \
    train.checkpoint_seconds=120 "$@" --minutes "$minutes" 2>&1 | tee "$out/$codec.log"
split -b 15M -d "$work/$codec/weights.safetensors" "$out/${codec}_base.safetensors.part"
