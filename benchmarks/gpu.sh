#!/usr/bin/env bash
# Every check and measurement that needs a GPU and has not been made yet, in one run of under nine minutes.
# Usage: benchmarks/gpu.sh OUTPUT_FOLDER   (run in an environment that has the project's dependencies)
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
# 3. Throughput of the training loop for the three backbones.
python3 benchmarks/gpu_throughput.py > "$out/throughput.json" || echo "throughput failed" >> "$out/failed"
rm -rf "$out/store"
test ! -e "$out/failed"
