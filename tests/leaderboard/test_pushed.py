"""What was pushed, as its readers meet it: the page in a browser, the table through `datasets`, the runs as files."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hub_server import HubServer

from benchmark.records.results import RECORD_FILE
from leaderboard.hub import Hub, Repository
from leaderboard.push import board_targets, push

pytestmark = [
    pytest.mark.slow,
    # From inside the client's own upload of large files.
    pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning"),
]

DATASET, SPACE = "org/records", "org/board"
CHROMIUM = Path("/usr/bin/chromium")
_ARGUMENTS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip
_LOAD = """\
import json, sys
from datasets import load_dataset
table = load_dataset(sys.argv[1], split="records")
print(json.dumps({"rows": len(table), "columns": table.column_names, "first": table[0]}))
"""


@pytest.fixture
def pushed(maker, hub: Callable[..., Hub], hub_server: HubServer) -> HubServer:
    """A board of two methods, pushed as the Hub takes it: Parquet as large files."""
    hub_server.large = {".parquet"}
    maker.row("erm", 0.4, seeds=5)
    maker.row("acme/x", 0.6, seeds=5, verified=None)
    targets = board_targets(DATASET, SPACE, records=maker.results, verification=maker.verification)
    for target in targets:
        push(target, hub())
    return hub_server


def fetched(client: Hub, repository: Repository, folder: Path) -> Path:
    head = client.head(repository)
    for path, known in head.files.items():
        client.fetch(repository, path, str(head.commit), known, folder)
    return folder


def test_the_page_opens_as_it_was_pushed(pushed: HubServer, hub: Callable[..., Hub], tmp_path: Path) -> None:
    if not CHROMIUM.exists():
        if "chromium" in os.environ.get("GENBIAS_REQUIRE", "").split(","):
            pytest.fail(f"GENBIAS_REQUIRE asks for chromium, but there is no {CHROMIUM}")
        pytest.skip(f"there is no {CHROMIUM}")
    from playwright.sync_api import sync_playwright

    folder = fetched(hub(None), Repository("space", SPACE), tmp_path / "space")
    asked: list[str] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=_ARGUMENTS)
        page = browser.new_page()
        page.on("request", lambda request: asked.append(request.url))
        page.goto((folder / "index.html").as_uri())
        table = page.locator("table").first.inner_text()
        browser.close()
    assert "erm@1" in table
    assert "acme/x@1" in table
    assert [address for address in asked if not address.startswith("file:")] == []
    board = json.loads((folder / "board.json").read_text())
    assert board["runs"] == 10


def test_the_table_loads_with_datasets(pushed: HubServer, tmp_path: Path) -> None:
    environment = {
        **os.environ, "HF_ENDPOINT": pushed.url, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", _LOAD, DATASET], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["rows"] == 2 * 5 * 3
    assert {"acc_conflicting", "acc_conflicting_low", "verification", "folder"} <= set(found["columns"])
    assert found["first"]["task"] == "colorized-digits"


def test_a_run_from_the_data_set_is_the_run_that_was_accepted(
    pushed: HubServer, hub: Callable[..., Hub], tmp_path: Path, maker
) -> None:
    folder = fetched(hub(None), Repository("dataset", DATASET), tmp_path / "data")
    for file in maker.results.rglob(RECORD_FILE):
        copy = folder / "results" / file.relative_to(maker.results)
        assert [path.read_bytes() for path in sorted(copy.parent.iterdir())] == [
            path.read_bytes() for path in sorted(file.parent.iterdir())
        ]
