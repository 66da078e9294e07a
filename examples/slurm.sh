#!/bin/bash
#SBATCH --job-name=equiflow
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1        # one torchrun per node; it starts a process per GPU
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=16
#SBATCH --time=12:00:00
#SBATCH --requeue                  # a preempted job starts again and goes on from the last checkpoint
#SBATCH --open-mode=append

# Train one flow with all GPUs of the job, then draw an ensemble from it:
#
#     sbatch examples/slurm.sh examples/configs/L256.toml runs/L256
#     DEVICE=cpu PROCESSES=16 SAMPLES=10000 sbatch examples/slurm.sh examples/configs/ladder.toml runs/L32
#
# Config and run folder must be visible from every node, since any node can become the first. The job computes on
# DEVICE, "cuda" unless given, without a number. On nodes without GPUs, remove --gpus-per-node, say DEVICE=cpu, and
# set PROCESSES to the number of cores of a node; gloo then replaces nccl. [training] batch_size is that of all
# processes together, so it must be a number that they can share. A ladder of the config is climbed by all
# processes, rung by rung. Not run on a cluster of GPUs: torchrun with two processes on CPUs is what is tested.
set -euo pipefail
config=$1
run=$2
device=${DEVICE:-cuda}
samples=${SAMPLES:-100000}

export OMP_NUM_THREADS=1
export SRUN_CPUS_PER_TASK="$SLURM_CPUS_PER_TASK"   # since Slurm 22.05 srun does not take it from sbatch
# Each restart of the workers gets a new store: a shared one would hold the addresses of dead processes.
export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1

port=$((20000 + SLURM_JOB_ID % 10000))             # jobs on one node need different ports
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
torchrun=(
    srun torchrun
    --nnodes="$SLURM_NNODES"
    --nproc-per-node="${PROCESSES:-${SLURM_GPUS_ON_NODE:-1}}"
    --rdzv-backend=c10d
    --rdzv-endpoint="$head:$port"
    --rdzv-id="$SLURM_JOB_ID"
    --max-restarts=3
    -m --                          # what follows is not for torchrun, which would read --run as its --run-path
)

# If the run folder holds a run of this config, training goes on with it.
"${torchrun[@]}" equiflow train "$config" --run "$run" --set "compute.device=$device" --quiet
# Each process draws shards of its own; the same command again draws those that are missing.
"${torchrun[@]}" equiflow sample "$run" -n "$samples" --device "$device" -o "$run/ensemble.h5"
equiflow measure "$run/ensemble" --json "$run/observables.json"
