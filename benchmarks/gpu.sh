#!/usr/bin/env bash
# Every check and measurement that needs a GPU and has not been made yet, in one run of under nine minutes.
# Usage: benchmarks/gpu.sh OUTPUT_FOLDER   (run in an environment that has the project's dependencies)
# GENBIAS_DATA may name a folder with MNIST's files: then colorized-mnist runs too.
set -uo pipefail
out="${1:?output folder}"
mkdir -p "$out"
cd "$(dirname "$0")/.."
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" GENBIAS_STORE="$out/store" HF_HUB_OFFLINE=1
python3 -m benchmark.cli.main env --json > "$out/env.json"
# 1. The whole path on a GPU: bf16, fused optimiser, tiny-sd sampled there.
for method in erm ffr sd-augment; do
  /usr/bin/env time -p python3 -m benchmark.cli.main evaluate --method "$method" --device cuda \
    --results-dir "$out/results" --json > "$out/$method.json" 2> "$out/$method.log" || echo "$method failed" >> "$out/failed"
done
# 2. Same seed twice on the GPU: is the training bit-equal there too?
python3 -m benchmark.cli.main evaluate --method erm --device cuda --force --results-dir "$out/results" --json \
  > "$out/erm-again.json" 2>> "$out/erm.log" || echo "erm again failed" >> "$out/failed"
# 3. Throughput of the training loop for the backbones, images resident on the device and streamed from a prepared store.
python3 benchmarks/gpu_throughput.py > "$out/throughput.json" 2> "$out/throughput.log" || echo "throughput failed" >> "$out/failed"
# 4. A whole data set on a GPU: preparation, training and 100,000 crossed test images.
if [ -n "${GENBIAS_DATA:-}" ]; then
  for level in 0.95 0.99; do
    /usr/bin/env time -p python3 -m benchmark.cli.main evaluate --method erm --task colorized-mnist --bias-level "$level" \
      --device cuda --results-dir "$out/results" --json > "$out/mnist-$level.json" 2> "$out/mnist-$level.log" \
      || echo "mnist $level failed" >> "$out/failed"
  done
fi
rm -rf "$out/store"
test ! -e "$out/failed"
