"""The harness of genbias-bench: tasks, contract, training, metrics, records and evaluation.

Internal: users import :mod:`genbias_bench`, which names the public API in one place.
"""
