"""`leaderboard findings`: from records to the made parts of docs/findings.md and docs/hypotheses.md, and the figures.

People write those pages; between two comments stands what follows from the records, and nothing there is typed by hand.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmark.errors import DamagedFile, UsageError
from benchmark.records.files import make_folder, write_bytes, write_text
from benchmark.records.store import default_store
from leaderboard.blocks import framed, replace_block
from leaderboard.build import checkout
from leaderboard.charts import draw_trajectories
from leaderboard.findings.arms import Arms
from leaderboard.findings.bias import bias_tables
from leaderboard.findings.charts import draw_hypotheses, draw_levels, draw_probes
from leaderboard.findings.cost import cost_tables
from leaderboard.findings.hypotheses import HYPOTHESES_FILE, Hypotheses, hypotheses_table, read_hypotheses
from leaderboard.findings.ledger import ledger, read_claims
from leaderboard.findings.quantities import Runs
from leaderboard.findings.questions import (
    CLUSTERS,
    FINE_TUNED,
    TWO_STEP,
    WORTH,
    contrasts_table,
    loops,
    loops_table,
    probed_rows,
    probes_table,
    transfer_table,
)
from leaderboard.findings.verdicts import Outcome, counts_text, judge_hypotheses, verdicts_table
from leaderboard.groups import Scored
from leaderboard.load import Problems, find_records
from leaderboard.models import RANKING_LEVELS
from leaderboard.reading import read_runs
from leaderboard.remembered import BOARD_CACHE, Remembered
from leaderboard.verification import VERIFICATION_FILE, read_verifications

FINDINGS_PAGE, HYPOTHESES_PAGE, FIGURES = "findings.md", "hypotheses.md", "figures"
_FIGURE = "figure-"
"""Blocks that show figures are named so."""


@dataclass(frozen=True)
class Findings:
    """What the records say.

    Attributes:
        outcomes: Of the hypotheses.
        blocks: Made parts of the findings' page, by name.
        hypotheses: The table of the hypotheses' page.
        figures: SVG by file name.
        unverified: Runs that count although nobody verified them.
    """

    outcomes: list[Outcome]
    blocks: dict[str, str]
    hypotheses: str
    figures: dict[str, bytes] = field(repr=False)
    unverified: int = 0


@dataclass(frozen=True)
class Written:
    """Which files were written, or differ.

    Attributes:
        findings: What they hold.
        files: Written files; when checked, those that are not what the records give.
    """

    findings: Findings
    files: list[Path]


def write_findings(
    records: Sequence[Path] | None = None,
    docs: Path | None = None,
    figures: Path | None = None,
    *,
    check: bool = False,
    verification: Path = VERIFICATION_FILE,
    hypotheses: Path = HYPOTHESES_FILE,
) -> Written:
    """Write the made parts of the pages and the figures, or compare the pages with what would be written.

    Args:
        records: Folders of records; runs of every verification level count then, and the page says how many nobody
            verified. None takes the accepted ones, of which only those that maintainers ran or replayed count.
        docs: Folder of the pages; a page that is not there begins as the checkout's. None takes the checkout's, and
            then ``records`` must be None.
        figures: Folder of the figures; None is ``figures`` in ``docs``.
        check: Write nothing. Figures are only looked for: versions of fonts move bytes of an SVG.
        verification: The file in which maintainers write verification levels.
        hypotheses: The hypotheses.

    Raises:
        UsageError: For records without ``docs``, or without a checkout.
        DamagedFile: When a record is not what it says, or a page lacks a pair of comments.
        DataError: When a task's data are not at hand, so that answers cannot be checked.
        StoreError: When a file cannot be written.
    """
    if records is not None and docs is None:
        raise UsageError("name a folder for the pages too: docs/ itself is made from leaderboard/results only")
    own = checkout("folders of records and of pages") / "docs"
    folder = docs or own
    found = collect_findings(
        records or [own.parent / "leaderboard" / "results"],
        any_level=records is not None,
        verification=verification,
        hypotheses=read_hypotheses(hypotheses),
    )
    pages = {
        FINDINGS_PAGE: found.blocks,
        HYPOTHESES_PAGE: {"hypotheses": found.hypotheses},
    }
    made = {name: _page(folder / name, own / name, blocks) for name, blocks in pages.items()}
    drawn = {(figures or folder / FIGURES) / name: content for name, content in found.figures.items()}
    if check:
        differing = [folder / name for name, text in made.items() if _text(folder / name) != text]
        return Written(found, differing + [file for file in drawn if not file.is_file()])
    for file, content in drawn.items():
        write_bytes(make_folder(file.parent) / file.name, content)
    for name, text in made.items():
        write_text(make_folder(folder) / name, text)
    return Written(found, [*(folder / name for name in made), *drawn])


def collect_findings(
    records: Sequence[Path], *, any_level: bool, verification: Path, hypotheses: Hypotheses, cached: bool = True
) -> Findings:
    """Compute the findings without writing them.

    Args:
        records: Folders of records, or record files.
        any_level: Whether runs count that maintainers neither ran nor replayed.
        verification: The file in which maintainers write verification levels.
        hypotheses: What was asked.
        cached: Use what earlier builds remember in the store.

    Raises:
        GenBiasError: As :func:`write_findings`.
    """
    verified, problems = read_verifications(verification).by_digest(), Problems()
    claims = read_claims(hypotheses)
    with Remembered(default_store() / BOARD_CACHE if cached else None) as memory:
        read = read_runs(find_records(records), verified, memory, problems)
        problems.raise_any()
        scored = [each for each in read.scored if any_level or each.run.level in RANKING_LEVELS]
        runs = Runs(scored, Arms(scored), memory)
        outcomes = judge_hypotheses(hypotheses.hypothesis, runs)
    looping, probed = loops(runs), probed_rows(runs.arms)
    blocks = {
        "runs": _runs_text(scored),
        "verdicts": f"{counts_text(outcomes)}\n\n{verdicts_table(outcomes)}",
        "ledger": ledger(claims, outcomes),
        "two-step": contrasts_table(TWO_STEP, runs.arms),
        "fine-tuned": contrasts_table(FINE_TUNED, runs.arms),
        "clusters": contrasts_table(CLUSTERS, runs.arms),
        "worth": contrasts_table(WORTH, runs.arms),
        "loops": loops_table(looping),
        "transfer": transfer_table(runs.arms),
        "probes": probes_table(probed),
        "bias": bias_tables(runs.arms),
        "costs": cost_tables(scored),
    }
    figures: dict[str, bytes | None] = {
        f"levels-{task}{'' if recipe == 'default' else f'-{recipe}'}.svg": draw_levels(task, recipe, runs.arms)
        for task, recipe in dict.fromkeys((place.task, place.recipe) for place in runs.arms.places)
    }
    figures["hypotheses.svg"] = draw_hypotheses(outcomes)
    figures["loops.svg"] = draw_trajectories(looping, ".svg") if looping else None
    figures["probes.svg"] = draw_probes(probed)
    drawn = {name: content for name, content in figures.items() if content is not None}
    blocks |= {f"{_FIGURE}{kind}": _shown(kind, drawn) for kind in _ALT}
    unverified = sum(each.run.level not in RANKING_LEVELS for each in scored)
    return Findings(outcomes, blocks, hypotheses_table(hypotheses), drawn, unverified)


_ALT = {
    "levels": "Accuracy on conflicting images by bias level, for the main methods",
    "hypotheses": "Estimates of all tested hypotheses with their 95 % intervals",
    "loops": "Share of conflicting images and accuracy on them over the generations of the loops",
    "probes": "Accuracy of the probes beside the ranking metric, row by row",
}


def _shown(kind: str, drawn: dict[str, bytes]) -> str:
    names = [name for name in drawn if name.removesuffix(".svg").partition("-")[0] == kind]
    return "\n\n".join(f"![{_ALT[kind]}]({FIGURES}/{name})" for name in names) or "No figure yet."


def _runs_text(scored: Sequence[Scored]) -> str:
    """Say how many runs of which task these findings rest on, and whether anybody verified them."""
    tasks = Counter(each.split.task.card.task.name for each in scored)
    text = ", ".join(f"{number} of `{name}`" for name, number in sorted(tasks.items()))
    unverified = Counter(each.run.level for each in scored if each.run.level not in RANKING_LEVELS)
    text = f"{len(scored):,} runs: {text}." if scored else "No run yet."
    if unverified:
        levels = ", ".join(f"{number} {level}" for level, number in sorted(unverified.items()))
        text += f" **A draft: nobody has verified all of them ({levels}).**"
    return text


def _page(file: Path, original: Path, blocks: dict[str, str]) -> str:
    """Return a page with its made parts as the records give them."""
    text = _text(file)
    if text is None:
        text = _text(original)
    if text is None:
        raise DamagedFile(f"{file} is missing; people write it, and only parts of it are made")
    for name, block in blocks.items():
        text = replace_block(text, name, framed(name, block), str(file))
    return text


def _text(file: Path) -> str | None:
    return file.read_text(encoding="utf-8") if file.is_file() else None
