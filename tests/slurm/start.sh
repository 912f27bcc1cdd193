#!/usr/bin/env bash
# A real SLURM on this one machine, for the tests of the slurm engine: installs Debian's packages, writes a configuration
# that needs neither cgroups nor systemd, starts the daemons and waits until the node is idle. Needs root. Running it
# again changes nothing. stop.sh ends it.
set -euo pipefail

CONF=/etc/slurm/slurm.conf
MARK="# written by genbias-bench, tests/slurm/start.sh"

node_in() { timeout 5 sinfo --noheader --format=%t 2>/dev/null | grep -qxE "$1"; }
fail() { printf '%s: %s\n' "$0" "$1" >&2; exit 1; }

[ "$(id -u)" = 0 ] || fail "run it as root: it installs packages and starts daemons"
if [ -e "$CONF" ] && ! grep -qxF "$MARK" "$CONF"; then fail "$CONF is another SLURM's; nothing was changed"; fi
if node_in "idle|mix|alloc"; then exit 0; fi

if ! { command -v slurmctld && command -v slurmd && command -v munged; } >/dev/null; then
  export DEBIAN_FRONTEND=noninteractive
  apt-get update -qq
  apt-get install -y -qq --no-install-recommends slurm-wlm munge >/dev/null
fi

# `slurmd -C` prints the node as this machine is: NodeName=… CPUs=… RealMemory=…
NODE="$(slurmd -C | head -n 1)"
NAME="$(sed -E 's/^NodeName=([^ ]+).*/\1/' <<<"$NODE")"
install -d /etc/slurm /var/lib/slurm/slurmctld /var/lib/slurm/slurmd /var/log/slurm
cat > "$CONF" <<CONFIGURATION
$MARK
ClusterName=genbias
SlurmctldHost=$NAME(127.0.0.1)
SlurmUser=root
AuthType=auth/munge
# A job that is queued again waits until its old credential has expired; by default two minutes.
AuthInfo=cred_expire=10
CryptoType=crypto/munge
StateSaveLocation=/var/lib/slurm/slurmctld
SlurmdSpoolDir=/var/lib/slurm/slurmd
SlurmctldPidFile=/run/slurmctld.pid
SlurmdPidFile=/run/slurmd.pid
SlurmctldLogFile=/var/log/slurm/slurmctld.log
SlurmdLogFile=/var/log/slurm/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
# Without cgroups a job's memory is watched by polling.
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=1
JobAcctGatherParams=OverMemoryKill
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
SchedulerParameters=sched_interval=1,batch_sched_delay=0
# A job runs at the niceness of who submits it.
PropagatePrioProcess=1
JobRequeue=1
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
KillWait=5
ReturnToService=2
NodeName=$NAME NodeAddr=127.0.0.1 ${NODE#* } State=UNKNOWN
PartitionName=main Nodes=$NAME Default=YES MaxTime=INFINITE DefMemPerCPU=256 State=UP
CONFIGURATION

# Ended daemons stay as zombies where nothing reaps them, as in many containers.
alive() { pgrep --runstates D,R,S --exact "$1" >/dev/null; }
if ! alive munged; then
  install -d -o munge -g munge -m 755 /run/munge
  install -d -o munge -g munge -m 700 /var/log/munge
  runuser -u munge -- /usr/sbin/munged
fi
alive slurmctld || slurmctld
alive slurmd || slurmd

SECONDS=0
while [ "$SECONDS" -lt 30 ]; do
  if node_in idle; then exit 0; fi
  # After a crash or a reboot the controller may still hold the node for down.
  timeout 5 scontrol update nodename="$NAME" state=resume 2>/dev/null || true
  sleep 0.5
done
tail -n 20 /var/log/slurm/slurmctld.log /var/log/slurm/slurmd.log >&2 || true
fail "the node was not idle within 30 s"
