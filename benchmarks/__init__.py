"""Compare cnnlab with other libraries. `make bench` runs every benchmark.

`python -m benchmarks.trainer` runs a single one. `pairs` times two functions alternately, `report`
writes the tables, and `regimes` and `loops` belong to `trainer`. Every other module is a benchmark
of its own; `gpu` puts those together that need a GPU, for `make gpu`. With `--short` a benchmark
takes seconds, but its numbers mean nothing.
"""
