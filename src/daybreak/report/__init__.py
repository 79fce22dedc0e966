"""Figures and self-contained HTML pages: the report of a run, and runs compared.

Stands on explain. From outside: the names below, `figures`, and for other pages `html` and `items`.
"""

from daybreak.report.comparison_page import write_comparison
from daybreak.report.report import write_report

__all__ = ["write_comparison", "write_report"]
