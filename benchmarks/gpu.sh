#!/usr/bin/env bash
# Every check and measurement that needs a GPU, in one run of under nine minutes.
# Usage: benchmarks/gpu.sh OUTPUT_FOLDER [PART…]   (run in an environment that has the project's dependencies)
# Parts: throughput generators loop scratch data tests methods arms compile; all of them unless some are named. What no time
# is left for, or fails, is listed in OUTPUT_FOLDER/failed; GENBIAS_GPU_SECONDS changes the limit.
# The part `grid`, only when it is named, runs cells of the official grid on colorized-mnist until the time is up: from a
# clean clone, so that the records name their commit, into OUTPUT_FOLDER/results, which a later call goes on with.
# GENBIAS_GRID="--grid FILE --method lora …" chooses others; GENBIAS_GRID_WORKERS is how many run at once (default 6).
# GENBIAS_DATA may name a folder with MNIST's files: then colorized-mnist runs too.
# A bare machine that has torch, torchvision and transformers needs wheels of the other dependencies in pyproject.toml.
# Besides diffusers, datasets and peft these are, for the methods and their audits: pytorch-metric-learning, torchmetrics
# with lightning-utilities, threadpoolctl and FrEIA; pytest for the part `tests`.
set -uo pipefail
out="${1:?output folder}"
shift
parts=" ${*:-throughput generators loop scratch data tests methods arms compile} "
limit="${GENBIAS_GPU_SECONDS:-520}"
mkdir -p "$out" && rm -f "$out/failed"
out="$(cd "$out" && pwd)"
cd "$(dirname "$0")/.."
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" GENBIAS_STORE="$out/store" HF_HUB_OFFLINE=1

# step NAME COMMAND…: its output becomes NAME.json, what it complains of and its time NAME.log.
step() {
  local name="$1" left=$((limit - SECONDS))
  shift
  if [ "$left" -lt 10 ]; then
    echo "$name: no time left" >> "$out/failed"
    return
  fi
  { time -p timeout "$left" "$@" > "$out/$name.json"; } 2> "$out/$name.log" || echo "$name failed" >> "$out/failed"
}

# evaluate NAME OPTION…
evaluate() {
  local name="$1"
  shift
  step "$name" python3 -m benchmark.cli.main evaluate --device cuda --results-dir "$out/results" --json "$@"
}

step env python3 -m benchmark.cli.main env --json
# 1. Throughput of the training loop for the backbones, alone on the card: images resident on the device and streamed from a
#    prepared store, passes replayed and launched one by one, and ERM on colorized-mnist against a conventional loop.
[[ $parts == *" throughput "* ]] && step throughput python3 benchmarks/gpu_throughput.py
# 2. Sampling and LoRA training at Stable Diffusion's size: images a second, share of the card's peak, memory; a JSON line
#    per case. Compiling and memory layouts are measured to decide about them.
[[ $parts == *" generators "* ]] && step generators python3 benchmarks/gpu_generators.py
# 3. The loop over generations alone on the card: its wall time is what the bound of ten minutes is about.
if [[ $parts == *" loop "* && -n "${GENBIAS_DATA:-}" ]]; then
  evaluate mnist-loop --method self-consuming-loop --task colorized-mnist --bias-level 0.9
fi
# 4. Training a generator from scratch against diffusers' own example.
if [[ $parts == *" scratch "* ]] && python3 -c "import pytest_benchmark" 2> /dev/null; then
  step scratch python3 -m pytest benchmarks/test_scratch.py -q -s -p no:cacheprovider
fi
# 5. A whole data set on a GPU: preparation, training and 100,000 crossed test images.
if [[ $parts == *" data "* && -n "${GENBIAS_DATA:-}" ]]; then
  for level in 0.95 0.99; do
    evaluate "mnist-$level" --method erm --task colorized-mnist --bias-level "$level"
  done
fi
# 6. The unit tests of fine-tuning with this machine's versions, beside what follows.
if [[ $parts == *" tests "* ]] && python3 -c "import pytest" 2> /dev/null; then
  OMP_NUM_THREADS=1 step test_finetune python3 -m pytest tests/generators/test_finetune.py -q -p no:cacheprovider &
fi
# 7. The whole path on a GPU, of every method that differs there: bf16, fused optimiser, tiny-sd fine-tuned and sampled.
#    Side by side, since one of them leaves most of a GPU idle: their times say little.
if [[ $parts == *" methods "* ]]; then
  for method in erm dfr jtt group-dro real-oracle; do
    evaluate "$method" --method "$method" --threads 3 &
  done
  wait
  # Same seed twice on the GPU: is the training bit-equal there too?
  evaluate erm-again --method erm --force --threads 3 &
  for method in ffr sd-augment lora dreambooth clustered-dreambooth; do
    evaluate "$method" --method "$method" --threads 3 &
  done
  wait
fi
# 8. The loop's arms on the default, invertible transfer and an audit.
if [[ $parts == *" arms "* ]]; then
  evaluate loop --method self-consuming-loop --bias-level 0.9 --threads 3 &
  evaluate loop-tuned --method self-consuming-loop --bias-level 0.9 --set generator=fine-tuned --threads 3 &
  evaluate cinn-transfer --method cinn-transfer --threads 3 &
  step audit python3 -m benchmark.cli.main audit --generator tiny-sd --device cuda --out "$out/audit" --json &
fi
wait
# 9. Compiled ResNets, to decide about compiling: mostly the time that compiling takes.
[[ $parts == *" compile "* ]] && step compile python3 benchmarks/gpu_throughput.py --compiled
# 10. Cells of the official grid. Interrupted once, a sweep begins no further cell and lets those that run end.
if [[ $parts == *" grid "* && -n "${GENBIAS_DATA:-}" ]]; then
  left=$((limit - SECONDS))
  # shellcheck disable=SC2086
  time -p timeout --signal INT --kill-after 60 $((left > 70 ? left - 60 : 10)) python3 -m benchmark.cli.main sweep \
    ${GENBIAS_GRID:---grid leaderboard/grids/colorized-mnist.toml} --isolated --device cuda --results-dir "$out/results" \
    --workers "${GENBIAS_GRID_WORKERS:-6}" --threads 2 > "$out/grid.log" 2>&1 || echo "grid: not all cells" >> "$out/failed"
fi
rm -rf "$out/store"
test ! -e "$out/failed"
