"""What submitters say about their methods: the accepted ``submissions/NAME.json``, shown in the details of rows."""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from benchmark.errors import DamagedFile
from benchmark.records.canonical import canonical_json
from leaderboard.load import check_plain
from leaderboard.submission import Submission, problems_of
from leaderboard.untrusted import JSON_BYTES, parse_json


def read_submissions(folder: Path) -> dict[str, Submission]:
    """Read the accepted submissions, by the method that they are about; of several the last by name counts.

    Args:
        folder: Holds one JSON file for each; empty where it does not exist.

    Raises:
        DamagedFile: When a file is no submission.
    """
    found = {}
    for file in sorted(folder.glob("*.json")):
        check_plain(file, JSON_BYTES)
        content = parse_json(file.read_bytes(), str(file))
        try:
            submission = Submission.model_validate_json(canonical_json(content))
        except ValidationError as error:
            raise DamagedFile(f"{file}: {problems_of(error)}") from error
        found[submission.method] = submission
    return found
