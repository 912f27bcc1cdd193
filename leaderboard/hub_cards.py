"""README.md of the two repositories on the Hub: front matter that the Hub reads, and prose."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from benchmark.records.kept import FULL_ROWS
from benchmark.tasks.card import card_names, load_card
from leaderboard.load import Run
from leaderboard.text import safe

ROLLUP_FILE = "data/records.parquet"
_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"))
_CITATION = """\
@software{genbias_bench,
  title  = {genbias-bench: does training image classifiers with generated data remove bias, move it, or amplify it?},
  author = {{The genbias-bench developers}}
}"""


def space_readme(dataset: str) -> str:
    """Return README.md of the static Space.

    Args:
        dataset: ``ORG/NAME`` of the data set that it shows.
    """
    front = {
        "title": "genbias-bench",
        "emoji": "⚖️",
        "colorFrom": "indigo",
        "colorTo": "gray",
        "sdk": "static",
        "app_file": "index.html",
        "pinned": True,
        "license": "apache-2.0",
        "short_description": "Does generated training data remove bias or add it?",
        "tags": ["leaderboard", "modality:image", "fairness"],
        "datasets": [dataset],
    }
    return _document(
        front,
        "# genbias-bench: the leaderboard\n\n"
        "Does training image classifiers with generated data remove bias, move it, or amplify it? This page is built "
        f"from the records in the data set `{dataset}`, whose card says how they were made and how to submit results. "
        "`genbias-bench leaderboard push` writes every file here; what is changed here by hand is overwritten.\n",
    )


def dataset_readme(name: str, runs: Sequence[Run], rows: int) -> str:
    """Return the card of the data set of records.

    Args:
        name: ``ORG/NAME``.
        runs: The accepted runs.
        rows: Rows of the roll-up.
    """
    front = {
        "pretty_name": "genbias-bench: records",
        "license": "apache-2.0",
        "task_categories": ["image-classification"],
        "size_categories": [next((name for most, name in _SIZES if rows < most), "100K<n<1M")],
        "tags": ["leaderboard", "fairness", "bias", "spurious-correlation", "synthetic-data"],
        "configs": [
            {"config_name": "records", "default": True, "data_files": [{"split": "records", "path": ROLLUP_FILE}]}
        ],
    }
    levels = Counter(run.level for run in runs)
    counted = ", ".join(f"{number} {level}" for level, number in sorted(levels.items())) or "none yet"
    return _document(front, _prose(name, counted, runs))


def _prose(name: str, counted: str, runs: Sequence[Run]) -> str:
    return _PROSE.format(name=name, counted=counted, tasks=_tasks(runs), full_rows=FULL_ROWS, citation=_CITATION)


def _document(front: Mapping[str, Any], prose: str) -> str:
    head = yaml.safe_dump(dict(front), sort_keys=False, allow_unicode=True, width=1000)
    return f"---\n{head}---\n\n{prose}"


def _tasks(runs: Sequence[Run]) -> str:
    """Return a Markdown table of the tasks, what their images are, and how many runs there are."""
    lines = ["| task | data set | licence of its images | runs | methods |", "|---|---|---|---|---|"]
    for task in sorted({run.record.cell.task for run in runs}):
        of_task = [run.record for run in runs if run.record.cell.task == task]
        hub = load_card(of_task[0].task.name).hub if of_task[0].task.name in card_names() else {}
        licence = hub.get("license_name") or hub.get("license", "unknown")
        title, methods = hub.get("pretty_name", "unknown"), len({record.cell.method for record in of_task})
        lines.append(f"| {safe(task)} | {title} | {licence} | {len(of_task)} | {methods} |")
    return "\n".join(lines)


_PROSE = """\
# genbias-bench: records

Does training image classifiers with generated data remove bias, move it, or amplify it? Each record is one training
run of one method on a biased task: what was asked, what was used, what came out, and the answers on the test split.
`genbias-bench leaderboard push` writes this card, `data/` and the accepted runs; what is changed there by hand is
overwritten.

## Content

* `data/records.parquet`: one row for each run, stage and selection rule: task, level, draw, seed, method,
  configuration, track, budget, cost, device, verification level, and each metric with its 95 % interval
  (`<metric>`, `<metric>_low`, `<metric>_high`; null where undefined). Rows with `is_last_stage` are those that the
  board compares.
* `results/<task>/<method>/<run>/record.json`: the whole record, beside the predictions that it names
  (`predictions-*.parquet`: arg-max and its probability, in the order of the frozen test split). Of test splits with
  more than {full_rows:,} images, what accepted runs keep of them: `argmax-*.parquet`, the arg-max of the last stage
  (of a process, of each generation), whose footer holds the SHA-256 of the predictions that it was taken from.
* `submissions/`: who submitted what, one file for each submission.
* `data/pushed.json`: the files that the last push wrote.

```python
from datasets import load_dataset

records = load_dataset("{name}", split="records").to_pandas()
last = records[records.is_last_stage & (records.rule == "last")]
```

No image is here, real or generated, no pool, adapter or generator.

## Sources

Runs by verification level: {counted}.

{tasks}

Labels and attributes of the face data sets are other people's annotations of how a face was read; they are not the
gender or age of a person. The data sets are not part of this repository; their own terms hold for them.

## How the records were made

Each run trains from a frozen split whose digest stands in the record, with one budget of optimiser steps and of
generated images for every method. Metrics are computed from the stored predictions only, so that anyone can recompute
them: `genbias-bench score results/<task>/<method>/<run>`. Where only the arg-max was kept, calibration errors and
earlier stages stand as recorded. The splits, budgets, metrics and intervals are versioned; the versions stand in each
row.

## Limitations

* Test labels are public. That metrics follow from predictions (`recomputed`) does not show how the predictions were
  made; only `maintained` and `replayed` runs are ranked.
* Intervals in this table are from test sampling alone. Differences between seeds come on top; the leaderboard
  averages seeds and gives both.
* A bias that was made on purpose in a benchmark is simpler than one in the wild. A high place here is no evidence that
  a classifier is fair in use, and none of these classifiers should decide about people.
* Rows of different tasks, levels, recipes, tracks or selection rules are not comparable.

## Submitting

`genbias-bench submit --method NAME --author YOU --out FOLDER --push --dataset {name}` checks a method's runs as the
board will and opens a pull request here. By opening one you publish its records and predictions under this
repository's licence.

## Citation

```bibtex
{citation}
```

Please cite the papers of the methods and data sets that you use too; their data cards name them.
"""
