"""cnnlab beside its peers. `make bench` runs everything; `python -m benchmarks.trainer` runs one script.

`pairs` times two things in turn, `report` writes the tables, `regimes` and `loops` belong to
`trainer`; every other module is a benchmark that can be read by itself. With `--short` each takes
seconds, and its numbers mean nothing.
"""
