"""Figures and self-contained HTML pages: the report of a run, and runs compared."""

from daybreak.report.comparison_page import write_comparison
from daybreak.report.report import write_report

__all__ = ["write_comparison", "write_report"]
