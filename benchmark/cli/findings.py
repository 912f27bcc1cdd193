"""`leaderboard findings`: what the records say about the hypotheses, put into the pages of the documentation."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from benchmark.cli.output import Debug, Json, print_json, print_table, say
from benchmark.errors import DamagedFile, UsageError


def findings(
    records: Annotated[
        list[Path] | None, typer.Argument(help="Records or folders of them; default: leaderboard/results.")
    ] = None,
    docs: Annotated[
        Path | None, typer.Option("--docs", metavar="DIR", help="Folder of the pages; default: docs of the checkout.")
    ] = None,
    figures: Annotated[
        Path | None, typer.Option("--figures", metavar="DIR", help="Folder of the figures; default: figures in --docs.")
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Write nothing; exit code 1 when a page is not what the records give.")
    ] = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Test the hypotheses on the records, and write tables and figures into docs/findings.md and docs/hypotheses.md.

    Only what stands between two comments is made; all else in the pages is written by people. Of the accepted records
    those count that maintainers ran or replayed; of other ones all, and the page says so. For example, what a grid that
    still runs says so far:

      genbias-bench leaderboard findings results --docs my-findings
    """
    del debug  # main() reads it
    if records and docs is None:
        raise UsageError("give --docs DIR too: docs/ itself is made from leaderboard/results only")
    from leaderboard.findings.verdicts import estimate_text
    from leaderboard.findings.write import write_findings

    done = write_findings(records or None, docs, figures, check=check)
    if json:
        print_json([each.model_dump(mode="json") for each in done.findings.outcomes])
    else:
        rows = [
            (each.hypothesis.id, each.hypothesis.claim, estimate_text(each), each.verdict, each.remark)
            for each in done.findings.outcomes
        ]
        print_table(("id", "claim", "estimate", "verdict", "remark"), rows)
    if done.findings.unverified:
        say(f"{done.findings.unverified} of the runs nobody has verified")
    if check and done.files:
        names = ", ".join(map(str, done.files))
        raise DamagedFile(f"not what the records give: {names}; run `genbias-bench leaderboard findings`")
    if not check:
        say(f"written: {', '.join(map(str, done.files))}")
