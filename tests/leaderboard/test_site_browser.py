"""The page in Chromium, from disk: its script, hostile text, accessibility, narrow screens, the Space's frame."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import quote

import pytest

from benchmark.records.files import write_json
from leaderboard.build import collect
from leaderboard.site.build import write_site
from leaderboard.site.submissions import read_submissions

pytestmark = pytest.mark.slow

CHROMIUM = "/usr/bin/chromium"
ARGUMENTS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip
HOSTILE = '"></script><script>document.title="owned"</script><img src=x onerror=alert(1)>--> javascript:alert(1) \u202e'
ROW = ".view.current tbody tr[id]"


@pytest.fixture(scope="module")
def browser():
    if not Path(CHROMIUM).is_file():
        if "chromium" in os.environ.get("GENBIAS_REQUIRE", "").split(","):
            pytest.fail(f"GENBIAS_REQUIRE asks for chromium, but there is no {CHROMIUM}")
        pytest.skip(f"there is no {CHROMIUM}")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield launched
        launched.close()


@pytest.fixture
def opened(browser):
    """Open pages in contexts of their own; whatever they ask for, and every dialog and error, is written down."""
    contexts, seen = [], []

    def open_page(file, hash_="", **options):
        context = browser.new_context(**({"viewport": {"width": 1280, "height": 900}} | options))
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(5_000)
        page.on("request", lambda request: seen.append(("request", request.url)))
        page.on("dialog", lambda dialog: (seen.append(("dialog", dialog.message)), dialog.dismiss()))
        page.on("pageerror", lambda error: seen.append(("error", str(error))))
        page.on("console", lambda message: seen.append(("console", message.text)))
        page.goto(f"file://{file}{hash_}")
        return page, seen

    yield open_page
    for context in contexts:
        context.close()


def clean(seen, file):
    """Return what a page did besides asking for itself."""
    return [each for each in seen if each[0] != "request" or not each[1].startswith(f"file://{file}")]


def board_of(maker):
    maker.results.mkdir(exist_ok=True)
    return collect([maker.results], verification=maker.verification)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    return tmp_path_factory.mktemp("site")


@pytest.fixture
def site(maker, built):
    """A page with two levels, two tracks, a row that is not ranked, and a submitter; made once."""
    if (built / "site" / "index.html").is_file():
        return built / "site" / "index.html"
    for level in ("0.95", "0.99"):
        maker.row("erm", 0.4, level=level)
        maker.row("acme/x", 0.6, level=level)
    maker.row("acme/labels", 0.7, track="train")
    maker.row("acme/new", 0.9, verified=None)
    about = {"format_version": 1, "method": "acme/x@1", "title": "X", "authors": ["A. Person"]}
    write_json(built / "x.json", about | {"links": ["https://x.org/paper"], "citation": "@misc{x,\n  title = {X}\n}"})
    return write_site(*board_of(maker), built / "site", submissions=read_submissions(built))[0]


def methods(page):
    return page.locator(f"{ROW} th button").all_inner_texts()


def test_the_table_is_there_without_a_script(site, opened):
    page, seen = opened(site, java_script_enabled=False)
    assert page.locator("table.board:visible").count() == 6  # two levels under three rules
    assert page.locator("#controls:visible").count() == 0
    assert page.locator("th button", has_text="acme/labels@1").first.is_visible()
    assert clean(seen, site) == []


def test_one_table_is_shown_and_sorted_by_its_heads(site, opened):
    page, seen = opened(site)
    assert page.locator("table.board:visible").count() == 1
    assert methods(page) == ["acme/labels@1", "acme/x@1", "erm@1", "acme/new@1"]
    head = page.locator(".view.current thead th", has_text="acc_conflicting")
    head.locator("button").click()
    assert head.get_attribute("aria-sort") == "descending"
    head.locator("button").click()
    assert head.get_attribute("aria-sort") == "ascending"
    assert methods(page) == ["erm@1", "acme/x@1", "acme/labels@1", "acme/new@1"]  # what is not ranked stays below
    page.locator(".view.current thead button", has_text="Method").click()
    assert methods(page) == ["acme/labels@1", "acme/x@1", "erm@1", "acme/new@1"]
    assert page.locator("[aria-sort]").count() == 1
    assert clean(seen, site) == []


def test_choices_narrow_the_table(site, opened):
    page, _ = opened(site)
    page.locator("[name=track][value=none]").check()
    assert methods(page) == ["acme/x@1", "erm@1", "acme/new@1"]
    assert page.locator("#count").inner_text() == "3 rows shown"
    page.locator("[name=q]").fill("ACME")
    assert methods(page) == ["acme/x@1", "acme/new@1"]
    page.locator("summary", has_text="Filters").click()
    page.locator("[name=verification]").select_option("maintained")
    assert methods(page) == ["acme/x@1"]
    page.locator("[name=labels]").select_option("yes")
    assert methods(page) == []
    assert page.locator("#nothing").inner_text() == "No row fits what was chosen."
    page.get_by_role("button", name="Reset").click()
    page.locator("#count", has_text="4 rows shown").wait_for()  # the controls change after the click
    assert len(methods(page)) == 4
    page.locator("label", has_text="ρ = 0.99").click()
    assert methods(page) == ["acme/x@1", "erm@1"]


def test_a_rule_without_such_rows_says_why(site, opened):
    page, _ = opened(site, "#rule=val-worst-group&track=none")
    assert "none of its rows is on track none" in page.locator("#nothing").inner_text()


def test_columns_are_the_reader_s_choice(site, opened):
    page, _ = opened(site)
    heads = page.locator(".view.current thead th:visible")
    assert not [head for head in heads.all_inner_texts() if head.startswith("flip_rate")]
    page.locator("summary", has_text="Columns").click()
    page.locator("[name=columns][value=flip_rate]").check()
    page.locator("[name=columns][value=gap]").uncheck()
    shown = heads.all_inner_texts()
    assert [head for head in shown if head.startswith("flip_rate")]
    assert not [head for head in shown if head.startswith("gap")]


def test_what_was_chosen_stands_in_the_address_and_comes_back(site, opened):
    page, _ = opened(site)
    page.locator("label", has_text="val-average").click()
    page.locator("label", has_text="ρ = 0.99").click()
    page.locator(".view.current thead button", has_text="Seeds").evaluate("button => button.click()")
    page.locator("[name=q]").fill("erm")
    page.locator(f"{ROW} button").first.click()
    page.locator("dialog h2", has_text="erm@1").wait_for()
    address = page.evaluate("location.hash")
    assert address.startswith("#rule=val-average&level=0.99&q=erm&sort=-seeds&row=")
    again, _ = opened(site, address)
    assert again.locator("dialog h2").inner_text() == "erm@1"
    assert again.locator("[name=rule]:checked").input_value() == "val-average"
    again.keyboard.press("Escape")
    assert methods(again) == ["erm@1"]
    assert "row=" not in again.evaluate("location.hash")
    again.evaluate("location.hash = '#read'")
    again.reload()
    assert again.evaluate("location.hash") == "#read"  # a link within the page stays one


def test_details_open_with_stages_groups_and_a_citation_to_copy(site, opened):
    page, seen = opened(site)
    page.locator(f"{ROW} button", has_text="acme/x@1").click()
    box = page.locator("dialog[open]")
    box.wait_for()
    assert box.locator("h3", has_text="Accuracy by group").count() >= 1
    assert box.locator(".heat").first.locator("td").count() == 100
    assert box.locator(".heat").first.locator("td b").count() == 10  # aligned groups
    assert "colorized-digits@1, ρ = 0.95, checkpoint last" in box.inner_text()
    box.locator(".copied button").click()
    assert box.locator(".copied button").inner_text() == "Copied"
    assert page.evaluate("getSelection().toString()") == "@misc{x,\n  title = {X}\n}"
    link = box.locator("a")
    assert (link.get_attribute("href"), link.get_attribute("target")) == ("https://x.org/paper", "_blank")
    assert link.get_attribute("rel") == "noopener noreferrer nofollow"
    box.locator(".close").click()
    assert page.locator("dialog[open]").count() == 0
    assert page.evaluate("document.activeElement.textContent") == "acme/x@1"  # back where the reader was
    assert clean(seen, site) == []


def test_everything_is_reached_by_keyboard(site, opened):
    page, _ = opened(site)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the table"
    reached = set()
    for _ in range(50):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.name || document.activeElement.textContent"))
    assert {"track", "rule", "task", "level", "q", "Filters", "Columns", "Reset", "Rank", "erm@1"} <= reached
    page.locator("thead button", has_text="Method").first.focus()
    page.keyboard.press("Enter")
    assert page.locator("[aria-sort=ascending]").count() == 1


def test_thousands_of_rows_are_shown_in_parts(maker, tmp_path, opened):
    maker.row("erm", 0.4)
    board, runs = board_of(maker)
    table = board.tasks[0].rules[0].tables[0]
    rows = [table.rows[0].model_copy(update={"id": f"{k:012x}"}) for k in range(450)]
    rule = board.tasks[0].rules[0].model_copy(update={"tables": [table.model_copy(update={"rows": rows})]})
    many = board.model_copy(update={"tasks": [board.tasks[0].model_copy(update={"rules": [rule], "stages": []})]})
    site, _ = write_site(many, [*runs], tmp_path / "many")
    page, _ = opened(site)
    assert page.locator(ROW).count() == 100
    assert page.locator("#count").inner_text() == "450 rows shown"
    page.get_by_role("button", name="Show more: 350 left").click()
    assert page.locator(f"{ROW}:visible").count() == 200


def test_a_task_of_processes_alone_has_no_table(maker, tmp_path, opened):
    maker.row("erm", 0.4)
    board, runs = board_of(maker)
    bare = board.tasks[0].model_copy(update={"rules": [], "stages": []})
    site, _ = write_site(board.model_copy(update={"tasks": [bare]}), runs, tmp_path / "bare")
    page, seen = opened(site)
    assert page.locator("h2", has_text="Colorized Digits").is_visible()
    assert page.locator("#nothing").is_hidden()
    assert clean(seen, site) == []


def test_hostile_text_runs_nothing(maker, tmp_path, opened):
    def attack(content):
        content["environment"]["device"] = HOSTILE
        content["cell"]["generator"] = {"name": HOSTILE, "revision": HOSTILE, "scheduler": HOSTILE}
        content["stages"][0]["name"] = HOSTILE

    name, outside = "evil</script><img src=x onerror=alert(1)>", {"component": HOSTILE, "trained_on": HOSTILE}
    for level in ("0.95", "0.99"):
        maker.run(
            name, 0, level=level, change=attack, package_version=HOSTILE, hparams={HOSTILE: HOSTILE},
            hparams_changed={HOSTILE: HOSTILE}, external_data=[outside | {"may_contain_task_images": None}],
        )  # fmt: skip
    failure = {"kind": HOSTILE, "message": HOSTILE, "traceback": []}
    maker.run(name, 1, status="error", change=lambda content: content.update(failure=failure))
    about = {"format_version": 1, "method": "acme/x@1", "title": "<img src=x onerror=alert(1)>", "authors": ["</h2>"]}
    about |= {"note": "--><script>alert(1)</script>", "citation": "</pre><script>alert(1)</script>"}
    maker.row("acme/x", 0.5)
    (tmp_path / "about").mkdir()
    write_json(tmp_path / "about" / "x.json", about)
    site, _ = write_site(*board_of(maker), tmp_path / "site", submissions=read_submissions(tmp_path / "about"))
    page, seen = opened(site)
    for method in ("evil</script>", "acme/x"):
        page.locator(f"{ROW} button", has_text=method).click()
        page.locator("dialog[open]").wait_for()
        assert page.locator("dialog img, dialog script, dialog iframe").count() == 0
        assert "alert(1)" in page.locator("dialog").inner_text()
        page.keyboard.press("Escape")
    page.locator("[name=q]").fill(HOSTILE[:20])
    page.wait_for_timeout(200)
    assert page.title() == "genbias-bench leaderboard"
    assert page.locator("main img, main iframe").count() == 0
    assert clean(seen, site) == []


def test_a_hostile_address_chooses_nothing(site, opened):
    parts = f"task={quote(HOSTILE)}&level=x&rule=__proto__&sort={quote(HOSTILE)}&row={quote(HOSTILE)}&q=%3Cimg%3E"
    page, seen = opened(site, f"#{parts}")
    assert page.locator("#nothing").is_visible()
    assert clean(seen, site) == []


def test_an_injected_script_is_refused_by_the_policy(site, opened, tmp_path):
    source = site.read_text(encoding="utf-8")
    broken = tmp_path / "broken.html"
    injected = '<script>document.title="owned"</script><img src="https://example.org/x.png" onerror="document.title=1">'
    broken.write_text(source.replace("<header>", f"{injected}<header>"), encoding="utf-8")
    page, seen = opened(broken)
    assert page.title() == "genbias-bench leaderboard"
    assert methods(page)
    refused = [message for kind, message in seen if kind == "console"]
    assert len([message for message in refused if "Content Security Policy" in message]) >= 2


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [{}, {"color_scheme": "dark"}, {"viewport": {"width": 360, "height": 780}}, {"reduced_motion": "reduce"}],
    ids=["light", "dark", "phone", "still"],
)
def test_the_page_is_accessible(site, opened, options):
    from axe_playwright_python.sync_playwright import Axe

    page, _ = opened(site, **options)
    page.evaluate("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
    first = Axe().run(page)
    page.locator(f"{ROW} button").first.click()
    page.locator("dialog[open] .heat").first.wait_for()
    second = Axe().run(page)
    found = [violation["id"] for each in (first, second) for violation in each.response["violations"]]
    assert found == []


@pytest.mark.parametrize("filled", ["empty", "one", "more"])
def test_a_narrow_page_never_scrolls_sideways(maker, tmp_path, opened, filled):
    if filled == "one":
        maker.run("erm", 0)
    if filled == "more":
        for level in ("0.95", "0.99"):
            maker.row("erm", 0.4, level=level)
            maker.row(f"acme/{'long-name-' * 15}x", 0.6, level=level)
    site, _ = write_site(*board_of(maker), tmp_path / "site")
    page, _ = opened(site, viewport={"width": 360, "height": 780})
    page.evaluate("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    if filled != "empty":
        page.locator(f"{ROW} button").first.click()
        page.locator("dialog[open] h3").first.wait_for()
        assert page.evaluate("document.querySelector('dialog').scrollWidth <= 360")


def test_the_space_s_frame_is_told_where_the_reader_is(site, browser):
    context = browser.new_context()
    page = context.new_page()
    frame = '<iframe src="https://board.static.hf.space/index.html#level=0.99"></iframe>'
    told = "<script>window.told = []; addEventListener('message', (e) => told.push([e.origin, e.data]))</script>"
    pages = {"huggingface.co": told + frame, "board.static.hf.space": site.read_text(encoding="utf-8")}

    def answer(route):
        route.fulfill(body=pages[route.request.url.split("/")[2]], content_type="text/html; charset=utf-8")

    page.route("**/*", answer)
    page.goto("https://huggingface.co/spaces/org/board")
    inside = page.frames[1]
    inside.locator("label", has_text="val-average").click()
    page.wait_for_function("told.length > 0")
    origin, data = page.evaluate("told.at(-1)")
    assert origin == "https://board.static.hf.space"
    assert data == {"queryString": "", "hash": "#rule=val-average&level=0.99"}
    context.close()
