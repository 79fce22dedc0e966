"""The report: figures and one self-contained HTML page about a run."""

from daybreak.report.report import write_report

__all__ = ["write_report"]
