"""The site: built strict, and read by a browser without asking another host for anything."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.slow
CHROMIUM = Path("/usr/bin/chromium")
_ARGUMENTS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("mkdocs", reason="the documentation's builder is part of the development environment only")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", folder]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_the_site_is_whole_and_holds_no_source(site: Path) -> None:
    for page in ("index", "tasks/celeba-blond", "methods/ffr", "commands/evaluate", "api", "metrics"):
        assert (site / f"{page}.html").is_file()
    assert not list(site.rglob("*.py*"))
    assert "acc_conflicting" in (site / "metrics.html").read_text()
    assert "synthesize" in (site / "api.html").read_text()
    assert not [page for page in site.rglob("*.html") if "-table --&gt;" in page.read_text()]


def test_nothing_is_loaded_from_elsewhere(site: Path) -> None:
    loaded = re.compile(r"<(?:script|img|iframe|link)\b[^>]*(?:src|href)=\"?((?:https?:)?//[^\s\">]+)")
    found = {address for page in site.rglob("*.html") for address in loaded.findall(page.read_text())}
    assert found == set()


@pytest.fixture(scope="module")
def browser() -> Iterator[object]:
    if not CHROMIUM.exists():
        if "chromium" in os.environ.get("GENBIAS_REQUIRE", "").split(","):
            pytest.fail(f"GENBIAS_REQUIRE asks for chromium, but there is no {CHROMIUM}")
        pytest.skip(f"there is no {CHROMIUM}")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=CHROMIUM, args=_ARGUMENTS)
        yield running
        running.close()


@pytest.mark.parametrize("width", [400, 1280])
def test_pages_open_from_disk_without_a_request_or_an_error_and_fit(site: Path, browser: object, width: int) -> None:
    page = browser.new_page(viewport={"width": width, "height": 900})  # type: ignore[attr-defined]
    asked, wrong = [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: wrong.append(str(error)))
    for name in ("index", "metrics", "errors", "tasks/utkface", "methods/lora", "commands/sweep", "api"):
        page.goto((site / f"{name}.html").as_uri())
        assert page.locator("h1").first.is_visible()
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), name
    page.close()
    assert [address for address in asked if not address.startswith("file:")] == []
    assert wrong == []
