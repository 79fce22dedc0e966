"""A worker of a sweep, as `daybreak sweep --workers` starts it."""

from daybreak.core.fanout import run_worker
from daybreak.sweeping.sweep import work_on

if __name__ == "__main__":
    run_worker(work_on)
