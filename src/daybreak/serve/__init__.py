"""A local web page over a run.

Stands on explain and report. From outside: `app.serve`.
"""
