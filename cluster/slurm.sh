#!/usr/bin/env bash
# A sweep on Slurm: a Ray head on the first node of the allocation, a worker on each other one, the script, and the end of all.
#   export MLFLOW_TRACKING_URI=http://TRACKER:5000 DMKD_DATA=/shared/data
#   sbatch cluster/slurm.sh sweeps/cars_s2sd.py --storage /shared/dmkd
# Submit it from the project's root, which all nodes see. Change the lines below to the machine's partitions and cards.
# When the time runs out Slurm signals the driver two minutes before: the same command with --resume goes on.
#SBATCH --job-name=dmkd
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=16
#SBATCH --gpus-per-node=4
#SBATCH --time=24:00:00
#SBATCH --signal=B:TERM@120
#SBATCH --output=dmkd-%j.log
set -euo pipefail
cd "${SLURM_SUBMIT_DIR:?start this by sbatch}"
[ -x cluster/node.sh ] || { echo "slurm.sh: $PWD is not the project's root: submit from there" >&2; exit 2; }
[ $# -gt 0 ] || { echo "usage: sbatch cluster/slurm.sh sweeps/NAME.py [options of the sweep]" >&2; exit 2; }
# shellcheck disable=SC1091
[ -r .venv/bin/activate ] && source .venv/bin/activate

mapfile -t hosts < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
# Two jobs may meet on a node: ports and the token are the job's own. The token's file is readable by its owner alone.
port=$((20000 + SLURM_JOB_ID % 10000))
RAY_AUTH_TOKEN_PATH="$(umask 077 && mkdir -p "$HOME/.ray" && mktemp "$HOME/.ray/token-$SLURM_JOB_ID-XXXXXX")"
python -c 'import secrets; print(secrets.token_hex(32), end="")' >"$RAY_AUTH_TOKEN_PATH"
head="$(srun --overlap --nodes=1 --ntasks=1 --nodelist="${hosts[0]}" hostname --ip-address | awk '{print $1}')"
export RAY_AUTH_TOKEN_PATH RAY_AUTH_MODE=token RAY_ADDRESS="$head:$port"

# A node is started without RAY_ADDRESS, which is for clients. Ray is told what Slurm gave to the job, not what the machine has.
on() { srun --overlap --nodes=1 --ntasks=1 --nodelist="$1" env -u RAY_ADDRESS cluster/node.sh "${@:2}" "${share[@]}" & nodes+=($!); }
share=(--num-cpus "${SLURM_CPUS_PER_TASK:-1}" --num-gpus "${SLURM_GPUS_ON_NODE:-0}")
nodes=()
driver=""
# shellcheck disable=SC2329
finish() {
  trap - EXIT
  for node in "${nodes[@]}"; do kill "$node" 2>/dev/null || true; done
  wait || true
  rm -f "$RAY_AUTH_TOKEN_PATH"
}
trap finish EXIT
trap 'if [ -n "$driver" ]; then kill -TERM "$driver" 2>/dev/null || true; fi' TERM INT

on "${hosts[0]}" head --node-ip-address "$head" --port "$port" --dashboard-port $((port + 10000)) --ray-client-server-port $((port + 20000))
ready() { python -c 'import ray, sys; ray.init(logging_level=50); sys.exit(len([n for n in ray.nodes() if n["Alive"]]) < int(sys.argv[1]))' "$1" 2>/dev/null; }
wait_for() {
  for _ in $(seq 60); do ready "$1" && return; sleep 2; done
  echo "slurm.sh: $1 nodes did not come up within two minutes; what they said is in dmkd-$SLURM_JOB_ID.log" >&2
  exit 1
}
wait_for 1
for host in "${hosts[@]:1}"; do on "$host" worker "$RAY_ADDRESS"; done
wait_for "${#hosts[@]}"

python "$@" &
driver=$!
status=0
# A signal ends `wait`, not the driver: it is waited for again, while it saves what it has.
wait "$driver" || status=$?
while kill -0 "$driver" 2>/dev/null; do status=0; wait "$driver" || status=$?; done
exit "$status"
