"""Metrics: pure functions from predictions, labels and training counts to numbers with intervals (torch-free).

Import what you need from the modules: :mod:`~benchmark.metrics.data` (inputs and outputs),
:mod:`~benchmark.metrics.registry` (names, definitions, directions), :mod:`~benchmark.metrics.table` (everything about
one checkpoint), :mod:`~benchmark.metrics.across_seeds`, :mod:`~benchmark.metrics.compare` and
:mod:`~benchmark.metrics.ranking` (several runs). The package itself imports nothing, so that ``--help`` stays fast.
"""
