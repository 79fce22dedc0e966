#!/bin/bash
# One training on two nodes of eight GPUs each: sbatch examples/slurm.sh
# daybreak is installed in .venv of a folder that both nodes see, where runs/ lies too.
#SBATCH --job-name=daybreak
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=01:00:00
#SBATCH --signal=TERM@120
#SBATCH --open-mode=append
# (SIGTERM two minutes before the end of its time: the run is then saved. Submitted again, the script goes on with it.)
set -euo pipefail

read -r first < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
srun .venv/bin/torchrun \
    --nnodes "$SLURM_NNODES" --nproc-per-node 8 --max-restarts 3 \
    --rdzv-id "$SLURM_JOB_ID" --rdzv-backend c10d --rdzv-endpoint "$first:29400" \
    -m daybreak train cifar10 --recipe sprint --out "runs/$SLURM_JOB_NAME"
