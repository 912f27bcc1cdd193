#!/usr/bin/env bash
# Ends the SLURM that start.sh started, with its jobs, and removes its configuration and state; the packages stay.
set -euo pipefail

CONF=/etc/slurm/slurm.conf
grep -qxF "# written by genbias-bench, tests/slurm/start.sh" "$CONF" 2>/dev/null || exit 0
timeout 10 scancel --user=root --quiet || true
for file in /run/slurmd.pid /run/slurmctld.pid /run/munge/munged.pid; do
  [ -s "$file" ] || continue
  PID="$(cat "$file")"
  kill "$PID" 2>/dev/null || true
  # Each removes its file last.
  for _ in $(seq 100); do [ -e "$file" ] && sleep 0.1 || break; done
done
rm -rf "$CONF" /var/lib/slurm/slurmctld/* /var/lib/slurm/slurmd/*
