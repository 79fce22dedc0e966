"""The reliability tests at full length: every resume point, 300 kills, 1,000 flipped bits, every write.

    make soak
    python benchmarks/soak.py test_team test_network     # only the promises of these files; the other rows stay

prints a table of trials and failures and writes it into docs/reliability.md. Two hours on two cores.
"""

import os
import re
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
import torch
from tables import between

from daybreak.core.device import describe_hardware, versions

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs" / "reliability.md"
BLOCK = between("soak")
PROMISES = {
    "test_resume.py::test_resumed_at_any_step_it_ends_the_same": "resumed after any of 40 steps: same final state",
    "test_resume.py::test_killed_at_any_moment_it_ends_the_same": "killed (`kill -9`) at random: same final state",
    "test_resume.py::test_a_signal_in_any_phase_loses_nothing": "a signal in a step or any evaluation",
    "test_resume.py::test_two_runs_in_one_directory": "two processes in one run directory: one is refused",
    "test_power_cut.py::test_a_disk_that_refuses_any_call_costs_nothing_that_was_saved": "a full or broken disk",
    "test_power_cut.py::test_after_a_power_cut_at_any_moment_what_was_acknowledged_is_there": "a power cut",
    "test_power_cut.py::test_on_a_disk_that_flushes_nothing_no_lie_is_loaded": "a disk that never flushes",
    "test_data_cache.py::test_what_was_changed_since_it_was_written_is_never_used": "a decoded copy that was changed",
    "test_data_cache.py::test_nonsense_in_the_cache_is_not_believed": "a decoded copy with nonsense in it",
    "test_resume_damage.py::test_a_damaged_log_does_not_cost_the_run": "a damaged log: the run goes on, exact",
    "test_resume_damage.py::test_an_edit_by_hand_is_found_before_anything_is_written": "an edited configuration",
    "test_resume_damage.py::test_a_wrong_key_is_named": "a wrong key in a file of a run: named",
    "test_checkpoint.py::test_facts_that_were_edited_with_their_sum_are_not_used": "edited facts of a checkpoint",
    "test_hostile_memory.py::test_a_refused_input_takes_less_than_a_gigabyte": "refused inputs in less than a gigabyte",
    "test_process_state.py::test_the_process_is_left_as_it_was_found": "the process is left as it was found",
    "test_process_state.py::test_three_threads_give_what_one_gives": "trainings in three threads: the bits of one",
    "test_serve.py::test_connections_without_a_request_keep_nobody_waiting": "connections that ask nothing",
    "test_hostile.py::test_an_input_gives_its_code_and_its_line": "malformed inputs: exit code and error line",
    "test_hostile.py::test_a_name_that_is_no_file_here_is_not_fetched": "image names outside the folder or remote",
    "test_serve.py::test_bad_uploads_keep_nobody_waiting": "uploads: too large, too slow, aborted",
    "test_serve.py::test_no_name_leads_out_of_the_run_or_to_the_network": "URLs outside a served run",
    "test_hostile.py::test_a_hundred_pickles_and_archives_run_nothing": "malicious pickles and archives",
    "test_cli.py::test_a_signal_while_it_starts_ends_it": "a signal at start-up, before a run exists",
    "test_team.py::test_a_killed_process_costs_nothing": "one of two processes killed at random: same final state",
    "test_network.py::test_a_cut_cable_costs_nothing": "a network cut for 30 s between two machines: same final state",
    "test_sweep_servers.py::test_trials_by_four_workers_two_of_them_killed": "workers of a sweep killed: no trial lost",
    "test_data_download.py::test_a_signal_ends_a_download_and_what_came_is_kept": "a signal in a download",
    "test_data_download.py::test_a_server_that_fails_midway_is_asked_for_the_rest": "servers: stalled, reset, 80 kB/s",
    "test_checkpoint.py::test_no_flipped_bit_and_no_cut_is_loaded": "a flipped bit or a truncated file",
}


class Tally:
    """A pytest plugin that counts trials and failures by test."""

    def __init__(self) -> None:
        self.trials: Counter[str] = Counter()
        self.failures: Counter[str] = Counter()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" or report.failed:
            name = report.nodeid.split("[")[0].removeprefix("tests/")
            self.trials[name] += int(dict(report.user_properties).get("trials", 1))
            self.failures[name] += report.failed


def main() -> None:
    os.environ["DAYBREAK_SOAK"] = "1"  # before the tests are imported
    os.chdir(ROOT)
    tally, wanted = Tally(), sys.argv[1:]
    asked = [name for name in PROMISES if not wanted or name.split(".py")[0] in wanted]
    code = pytest.main(["-q", *(f"tests/{name}" for name in asked)], plugins=[tally])
    text = table(tally, DOCS.read_text("utf-8"))
    DOCS.write_text(BLOCK.sub(lambda m: m[1] + text + m[2], DOCS.read_text("utf-8")), "utf-8")
    print(text)
    sys.exit(code)


def table(tally: Tally, page: str) -> str:
    """What was counted now, and the page's rows of what was not."""
    hardware, used = describe_hardware(torch.device("cpu")), versions()
    here = f"{time.strftime('%Y-%m-%d')}, {hardware['cpu']}, torch {used['torch']}"
    before = {match[1]: match[0] for match in re.finditer(r"^\|.*\| `(test_\w+)` \|.*\|$", page, re.MULTILINE)}
    rows = []
    for name, text in PROMISES.items():
        test = name.split("::")[1]
        if tally.trials[name]:
            rows.append(f"| {text} | `{test}` | {tally.trials[name]} | {tally.failures[name]} | {here} |")
        elif test in before:
            rows.append(before[test])
    head = ["| guarantee | test | trials | failures | last run |", "| --- " * 5 + "|"]
    return "\n".join([*head, *rows]) + "\n"


if __name__ == "__main__":
    main()
