"""A trained net to take away: exported with its preprocessing, proved equal to the run, in a folder of its own.

From outside: `write.export`; `bundle.Bundle`, which needs no torch. Stands on `runs` and `evaluation`.
"""
