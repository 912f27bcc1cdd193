"""The API page, the table of metrics and the table of versions, from the code."""

from __future__ import annotations

_PARTS = {
    "Run and recompute": ("evaluate", "score"),
    "Write a method": ("Method", "MethodCard", "Hparams", "Stage", "External", "Track", "SelectionRule"),
    "What a method receives": ("MethodData", "ImageSet", "GroupNames"),
    "What the harness lends": ("Tools", "Trained", "Budget", "Plan", "Loss", "GroupsOf"),
    "Generated images": (
        "FineTuning", "FromScratch", "Invertible", "Bootstrap", "OwnGenerator", "Filter", "FeaturesOf",
    ),
    "Errors": ("GenBiasError", "NotApplicable"),
}  # fmt: skip
_STATEMENT = """# Python API

Import from `genbias_bench`, nowhere else: it loads each name on first use, so importing it is quick.

!!! note "What is stable"
    Every name on this page follows [semantic versioning](versions.md): within a major version it is neither removed nor
    changed in a way that breaks code that uses it as written here; before 1.0 a minor version may do so, and the
    changelog says it. Everything else (`benchmark`, `leaderboard`, `methods`) is internal and may change at any time.
    The package carries `py.typed`: its types are part of the promise.

```python
from genbias_bench import evaluate

done = evaluate("erm", level="0.95", seed=0)
print(done.record.ranked_stage.checkpoints[0].metrics["acc_conflicting"].value)
```
"""


def api_page() -> str:
    """Return the page of the public names, in the order in which one meets them; new names come last."""
    import genbias_bench

    where = genbias_bench._WHERE
    placed = {name for names in _PARTS.values() for name in names}
    parts = {**_PARTS, "Further names": tuple(sorted(where.keys() - placed))}
    lines = [_STATEMENT]
    for title, names in parts.items():
        present = [name for name in names if name in where]
        if present:
            lines += [f"## {title}", ""]
        for name in present:
            lines += [f"::: {where[name]}.{name}", ""]
    return "\n".join(lines)


def metrics_table() -> str:
    """Return every metric with its definition, as records and the board name it."""
    from benchmark.metrics.registry import METRICS

    arrows = {"higher": "higher", "lower": "lower", "none": "neither"}
    rows = [
        f"| `{m.name}` | {m.definition.replace('|', '&#124;')} | {m.unit} | {arrows[m.direction]} | {m.interval} |"
        for m in METRICS.values()
    ]
    return "\n".join(["| metric | definition | unit | better | interval |", "|---|---|---|---|---|", *rows])


def contract_table() -> str:
    """Return what the contract suite checks of an adapter, and what it advises."""
    from benchmark.testing.checks import nothing_but

    rows = [f"| `{check.name}` | {check.promise} | {check.advice} |" for check in nothing_but("card", (), "")]
    return "\n".join(["| check | it holds that | if not |", "|---|---|---|", *rows])


def stored_versions() -> str:
    """Return what carries a version and which it is now."""
    import genbias_bench
    from benchmark.contract.registry import listed_methods, load_method
    from benchmark.metrics.registry import METRICS_VERSION
    from benchmark.records.schema import SCHEMA_VERSION
    from benchmark.records.store import FORMAT_VERSION
    from benchmark.tasks.card import card_names, load_card

    methods = [load_method(name).card.id for name, listed in sorted(listed_methods().items()) if listed.in_tree]
    tasks = [load_card(name) for name in card_names()]
    now = {
        "package": genbias_bench.__version__,
        "record schema": SCHEMA_VERSION,
        "metrics": str(METRICS_VERSION),
        "store": str(FORMAT_VERSION),
        "tasks": ", ".join(f"{card.id} (splits {card.task.split_version})" for card in tasks),
        "methods": ", ".join(methods),
    }
    return "\n".join(
        ["| what | version now |", "|---|---|", *(f"| {what} | {version} |" for what, version in now.items())]
    )
