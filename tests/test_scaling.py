"""The model of a step with messages, and that the docs have its table."""

import math
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))

from scaling import LAUNCH_SECONDS, Link, Net, message_seconds, model, net_of, step_seconds  # noqa: E402

LINK = Link(latency=1e-5, bandwidth=1e9)


def test_a_message_takes_what_the_formulas_say() -> None:
    """Ring: every byte goes out (N - 1) / N times twice. Tree: twice log2(N) hops, for short messages."""
    assert message_seconds(1e9, 1, LINK) == 0.0
    assert message_seconds(1e9, 2, LINK) == pytest.approx(2 * 1e-5 + 1.0)
    assert message_seconds(1e9, 4, LINK) == pytest.approx(6 * 1e-5 + 1.5)
    assert message_seconds(8, 64, LINK) == pytest.approx(2 * math.log2(64) * 1e-5, rel=1e-2)


def test_a_step_is_no_shorter_than_its_launches_and_its_messages() -> None:
    net = Net(parameters=1_000_000, norms=5)
    alone, none = step_seconds(net, 1000, 1, 1e5)
    assert (alone, none) == (pytest.approx(0.01), 0.0)
    for processes in (2, 8, 64):
        whole, messages = step_seconds(net, 1000, processes, 1e5)
        assert whole == pytest.approx(max(0.01 / processes, LAUNCH_SECONDS) + messages)
        assert messages > 0


def test_slower_links_between_machines_cost_more() -> None:
    net = Net(parameters=1_000_000, norms=5)
    inside, between = (step_seconds(net, 1000, processes, 1e5)[1] for processes in (8, 16))
    assert between > 2 * inside


def test_the_net_is_counted() -> None:
    assert net_of("sprint") == Net(parameters=2_424_424, norms=9)


def test_the_docs_have_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    page = (ROOT / "docs" / "scale.md").read_text(encoding="utf-8")
    model("sprint", 177_696, 1000)
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ") and line[2].isdigit()]
    assert len(rows) == 7
    assert [row for row in rows if row not in page] == []
