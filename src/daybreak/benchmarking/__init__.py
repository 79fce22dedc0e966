"""Series of runs: what they say together, the files that prove it, DAWNBench's own figures.

Stands on api. From outside: `bench.bench`, `record`.
"""
