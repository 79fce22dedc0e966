"""Figures and self-contained HTML pages: the report of a run, and runs compared.

Stands on explain. From outside: `report.write_report`, `comparison_page.write_comparison`, `figures`, and for other
pages `html` and `items`. Nothing is imported here: `html` is for pages that do without torch, too.
"""
