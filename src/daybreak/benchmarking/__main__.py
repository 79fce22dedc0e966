"""A worker of a series, as `daybreak bench --workers` starts it."""

from daybreak.benchmarking.bench import run_share
from daybreak.core.fanout import run_worker

if __name__ == "__main__":
    run_worker(run_share)
