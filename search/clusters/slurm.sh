#!/bin/bash
# A search under Slurm: Ray on all machines of one job, the search on the first, the end of both when it has ended.
#
#   SEARCH_DATA=/shared/windows SEARCH_RESULTS=/shared/results sbatch search/clusters/slurm.sh --max-hours 22
#
# From the project's folder on storage that all machines see, after `make .venv/.installed`. What follows the script's
# name goes to search/run.py. Tested with stand-ins for Slurm; not under Slurm itself.
#SBATCH --job-name=seismogen
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --exclusive
#SBATCH --gpus-per-node=4
#SBATCH --time=24:00:00
set -euo pipefail

: "${SEARCH_DATA:?name the prepared dataset}" "${SEARCH_RESULTS:?name the folder of results, on shared storage}"
source .venv/bin/activate

# A token of this job alone; it travels in the environment, which other users cannot read.
RAY_AUTH_TOKEN=$(head -c 32 /dev/urandom | od -An -tx1 | tr -d ' \n')
export SEARCH_DATA SEARCH_RESULTS RAY_AUTH_TOKEN RAY_AUTH_MODE=token

machines=($(scontrol show hostnames "$SLURM_JOB_NODELIST"))
head=${machines[0]}

# By NVIDIA's MPS trials that share a GPU compute at once.
export CUDA_MPS_PIPE_DIRECTORY=/tmp/mps-$SLURM_JOB_ID CUDA_MPS_LOG_DIRECTORY=/tmp/mps-$SLURM_JOB_ID
with_mps='mkdir -p "$CUDA_MPS_PIPE_DIRECTORY"; nvidia-cuda-mps-control -d || echo "No MPS: they take turns."; exec "$@"'

srun --nodes=1 --ntasks=1 --overlap -w "$head" sh -c "$with_mps" - \
  ray start --head --block --node-ip-address="$head" --port=6379 --dashboard-host=127.0.0.1 &
export RAY_ADDRESS=$head:6379 # where search/run.py finds it
until ray status > /dev/null 2>&1; do
  if ! kill -0 $! 2> /dev/null; then
    echo "error: Ray's head has ended before the search began; its last words are above" >&2
    exit 1
  fi
  sleep 1
done
if ((${#machines[@]} > 1)); then
  workers=$(IFS=,; echo "${machines[*]:1}")
  srun --nodes=$((${#machines[@]} - 1)) --ntasks-per-node=1 --overlap -w "$workers" sh -c "$with_mps" - \
    ray start --block --address="$RAY_ADDRESS" &
fi

status=0
srun --nodes=1 --ntasks=1 --overlap -w "$head" python search/run.py "$@" || status=$?
kill $(jobs -p) || true # Ray, where it has not ended itself; with this script the job ends
exit $status
