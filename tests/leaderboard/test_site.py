"""The page as text: what stands in it, that it is the same every time, and that text from records stays text."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
import zlib
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmark.errors import DamagedFile
from benchmark.records.files import write_json
from leaderboard import build
from leaderboard.build import build_board, collect
from leaderboard.models import Board, Estimate
from leaderboard.site import drawing, pictures
from leaderboard.site.build import render_page, write_site
from leaderboard.site.charts import charts
from leaderboard.site.prose import inline, listed
from leaderboard.site.submissions import read_submissions
from leaderboard.site.tables import COLUMNS
from leaderboard.site.text import several_lines, signed

HOSTILE = '"></script><script>alert(1)</script><img src=x onerror=alert(1)>--> javascript:alert(1) \u202e\u200f\x1b[31m'
KEYS = [column.key for column in COLUMNS]
ELEMENTS = set(
    """
    html head meta title style script body a header h1 h2 h3 p nav main form div fieldset legend label input span i
    details summary select option button section code table thead tbody caption tr th td svg path g text use figure
    figcaption small ul li strong em dl dt dd pre footer dialog
    """.split()  # noqa: SIM905
)


class Page(HTMLParser):
    """What a parser makes of the page: elements with their attributes, and rows as lists of texts."""

    def __init__(self, source: str) -> None:
        super().__init__(convert_charrefs=True)
        self.source, self.elements, self.rows = source, [], {}
        self._row: list[str] | None = None
        self.feed(source)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag == "tr" and dict(attrs).get("id"):
            self._row = self.rows.setdefault(dict(attrs)["id"], [])
        elif tag in ("td", "th") and self._row is not None:
            self._row.append("")

    def handle_endtag(self, tag):
        if tag == "tbody":
            self._row = None

    def handle_data(self, data):
        if self._row:
            self._row[-1] += data

    def named(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]

    @property
    def details(self):
        packed = re.search(r'id="data">(.*?)</script>', self.source)[1]
        return json.loads(zlib.decompress(base64.b64decode(packed)))

    def blocks(self, row):
        content = self.details
        number = next(int(each["data-d"]) for each in self.named("tr") if each.get("id") == f"r{row.id}")
        return {content["texts"][title]: (kind, part) for kind, title, part in content["details"][number]}, content


def site_of(maker, **keywords):
    maker.results.mkdir(exist_ok=True)
    board, runs = collect([maker.results], verification=maker.verification)
    return board, Page(render_page(board, runs, **keywords))


def cells(page, row):
    return {key: text.strip() for key, text in zip(KEYS, page.rows[f"r{row.id}"], strict=True)}


def test_a_row_stands_in_the_table_without_a_script(maker):
    maker.row("erm", 0.4)
    maker.row("acme/x", 0.6)
    board, page = site_of(maker)
    best, erm = board.tasks[0].rules[0].tables[0].rows
    found = best.metrics["acc_conflicting"]
    shown = cells(page, best)
    assert shown["metric"] == f"{100 * found.value:.1f} [{100 * found.low:.1f}, {100 * found.high:.1f}]"
    assert (shown["rank"], shown["method"], shown["behind"], shown["track"]) == ("1 of 2", "acme/x@1", "best", "none")
    assert re.fullmatch(r"−\d\d\.\d \* \[−\d\d\.\d, −\d\d\.\d\]", cells(page, erm)["behind"])
    assert len(page.rows) == 6  # two rows under three rules


def test_what_nobody_replayed_is_listed_but_not_ranked(maker):
    maker.row("erm", 0.4)
    maker.row("acme/x", 0.6, verified="recomputed")
    board, page = site_of(maker)
    row = next(row for row in board.tasks[0].rules[0].tables[0].rows if row.rank is None)
    shown = cells(page, row)
    assert (shown["rank"], shown["behind"], shown["verification"]) == ("–", "–", "recomputed")
    assert shown["notes"].startswith("not ranked: recomputed")
    table = page.source[page.source.index("<tbody>") :]
    assert table.index("erm@1") < table.index("Listed, not ranked") < table.index("acme/x@1")


def test_details_hold_every_stage_and_group_with_its_interval(maker):
    maker.row("acme/x", 0.6, stages={"early": 0.2})
    board, runs = collect([maker.results], verification=maker.verification)
    page, row = Page(render_page(board, runs)), board.tasks[0].rules[0].tables[0].rows[0]
    blocks, content = page.blocks(row)
    heads, lines = blocks["Stages, at their last step"][1]
    assert [content["texts"][head] for head in heads] == ["stage", "early", "real"]
    shown = {content["texts"][name]: [content["texts"][each] for each in rest] for name, *rest in lines}
    assert [int(each) for each in shown["optimiser steps"]] == [stage.steps for stage in runs[0].run.record.stages]
    found = row.metrics["acc_conflicting"]
    assert shown["acc_conflicting %"][1] == f"{100 * found.value:.1f} [{100 * found.low:.1f}, {100 * found.high:.1f}]"
    kind, (task, values) = blocks["Accuracy by group, %: stage real"]
    names = content["tasks"][content["texts"][task]]
    shares = np.array([each.answers[1, "last"].right / each.split.sizes for each in runs])
    assert kind == "g"
    assert names["scale"] == 1
    assert names["places"] == [list(range(10))] * 10
    assert values[0::2] == np.rint(100 * shares.mean(axis=0)).astype(int).tolist()
    half = 2.7764451 * shares.std(axis=0, ddof=1) / 5**0.5
    assert np.abs(np.array(values[1::2]) - 100 * half).max() <= 0.5001


def test_details_say_where_a_row_comes_from_and_what_it_cost(maker):
    maker.row("erm", 0.4)
    board, page = site_of(maker)
    blocks, content = page.blocks(board.tasks[0].rules[0].tables[0].rows[0])
    texts = content["texts"]
    said = {texts[name]: texts[value] for name, value in blocks["Where it comes from"][1]}
    assert said["commit"] == "c" * 40
    assert said["runs"].split() == board.tasks[0].rules[0].tables[0].rows[0].runs
    assert said["trained"] == "without the test split"
    assert {texts[name]: texts[value] for name, value in blocks["Cost of a run, on average"][1]}["in all"] == "12 s"


def test_rows_of_one_training_share_their_details(maker):
    maker.row("erm", 0.4)
    _, page = site_of(maker)
    assert len(page.rows) == 3
    assert {each["data-d"] for each in page.named("tr") if "id" in each} == {"0"}


def test_the_same_records_give_the_same_bytes(maker, tmp_path):
    maker.row("erm", 0.4)
    maker.row("acme/x", 0.6)
    _, page = site_of(maker)
    folders = sorted((file.parent for file in maker.results.rglob("record.json")), reverse=True)
    copies = [shutil.copytree(folder, tmp_path / "other" / str(k)) for k, folder in enumerate(folders)]
    again = render_page(*collect(copies, verification=maker.verification))
    assert again.encode() == page.source.encode()
    assert str(tmp_path) not in page.source


def test_an_empty_board_says_so(maker):
    _, page = site_of(maker)
    assert "No record yet" in page.source
    assert not page.named("table")
    assert not page.named("form")


def test_one_row_needs_no_chart(maker):
    maker.run("erm", 0)
    board, page = site_of(maker)
    assert charts(board.tasks[0]) == []
    assert len(page.rows) == 3
    assert "1 run of 1 method " in page.source


def test_the_demo_tier_stands_apart_and_is_shown_last(maker):
    maker.row("erm", 0.4)
    board, runs = collect([maker.results], verification=maker.verification)
    assert "What holds here need not hold on photographs" in render_page(board, runs)
    core = board.tasks[0].model_copy(update={"task": "photographs@1", "tier": "core", "trajectories": []})
    page = Page(render_page(board.model_copy(update={"tasks": [core, board.tasks[0]]}), runs))
    chosen = [each["value"] for each in page.named("input") if each.get("name") == "task" and "checked" in each]
    assert chosen == ["photographs@1"]
    legends = re.findall("<legend>(.*?)</legend>", page.source)
    assert legends[2:4] == ["Task", "Demo tier, no evidence about photographs"]


def test_a_superseded_task_says_what_took_its_place(maker):
    maker.row("erm", 0.4)
    board, runs = collect([maker.results], verification=maker.verification)
    old = board.tasks[0].model_copy(update={"superseded_by": "colorized-digits@2"})
    assert "superseded by colorized-digits@2" in render_page(board.model_copy(update={"tasks": [old]}), runs)


def test_only_the_page_s_own_scripts_and_styles_may_run(maker):
    maker.row("erm", 0.4)
    _, page = site_of(maker)
    policy = next(each["content"] for each in page.named("meta") if each.get("http-equiv"))
    parts = dict(part.split(" ", 1) for part in policy.split("; "))
    inline_scripts = re.findall(r"<script>(.*?)</script>", page.source, re.DOTALL)
    styles = re.findall(r"<style>(.*?)</style>", page.source, re.DOTALL)

    def digest(source):
        return f"'sha256-{base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()}'"

    assert parts["default-src"] == "'none'"
    assert parts["script-src"].split() == [digest(each) for each in inline_scripts]
    assert parts["style-src"].split() == [digest(each) for each in styles]
    assert parts["img-src"] == "data:"
    assert (len(inline_scripts), len(styles)) == (2, 1)


def test_nothing_is_loaded_and_links_stay_inside(maker):
    maker.row("erm", 0.4)
    _, page = site_of(maker)
    links = {each["href"] for each in page.named("a")} | {each["href"] for each in page.named("use")}
    assert {link for link in links if not link.startswith("#")} == {"board.json"}
    for _, attributes in page.elements:
        assert not attributes.keys() & {"src", "srcset", "action", "formaction", "style", "xlink:href", "ping"}
        assert not [name for name in attributes if name.startswith("on")]


def test_hostile_text_stays_text(maker):
    def attack(content):
        content["environment"]["device"] = HOSTILE
        content["cell"]["generator"] = {"name": HOSTILE, "revision": HOSTILE, "scheduler": HOSTILE}
        content["stages"][0]["name"] = HOSTILE

    outside = {"component": HOSTILE, "trained_on": HOSTILE, "may_contain_task_images": None}
    hparams = {"hparams": {HOSTILE: HOSTILE}, "hparams_changed": {HOSTILE: HOSTILE}}
    name = "evil</script><script>alert(1)</script>"
    for level in ("0.95", "0.99"):
        maker.run(name, 0, level=level, external_data=[outside], package_version=HOSTILE, change=attack, **hparams)
    failure = {"kind": HOSTILE, "message": HOSTILE, "traceback": []}
    maker.run(name, 1, status="error", change=lambda content: content.update(failure=failure))
    board, page = site_of(maker)
    assert {tag for tag, _ in page.elements} <= ELEMENTS
    assert len(page.named("script")) == 3
    assert not re.search(
        "[\u202a-\u202e\u2066-\u2069\u200e\u200f\x1b]", page.source + json.dumps(page.details, ensure_ascii=False)
    )
    row = board.tasks[0].rules[0].tables[0].rows[0]
    assert cells(page, row)["method"].startswith("evil</script><script>alert(1)</script>@1")
    assert "onerror" in "".join(page.details["texts"])


def test_the_site_is_two_files(maker, tmp_path):
    maker.row("erm", 0.4)
    board, runs = collect([maker.results], verification=maker.verification)
    html, numbers = write_site(board, runs, tmp_path / "site")
    assert sorted(file.name for file in (tmp_path / "site").iterdir()) == ["board.json", "index.html"]
    assert Board.model_validate_json(numbers.read_bytes()) == board
    assert html.read_text(encoding="utf-8") == render_page(board, runs)


def test_build_writes_the_page_beside_or_instead_of_the_markdown(maker, tmp_path, monkeypatch):
    maker.row("erm", 0.4)
    board = build_board([maker.results], site=tmp_path / "site", verification=maker.verification)
    assert board.written_to == str(tmp_path / "site" / "index.html")
    both = build_board([maker.results], tmp_path / "L.md", site=tmp_path / "two", verification=maker.verification)
    assert both.written_to == str(tmp_path / "L.md")
    assert (tmp_path / "two" / "index.html").read_bytes() == (tmp_path / "site" / "index.html").read_bytes()
    root = tmp_path / "clone"
    (root / "leaderboard" / "results").mkdir(parents=True)
    (root / "pyproject.toml").touch()
    monkeypatch.setattr(build, "__file__", str(root / "leaderboard" / "build.py"))
    build_board(site=tmp_path / "three", verification=maker.verification)
    assert (root / "LEADERBOARD.md").is_file()
    assert (tmp_path / "three" / "index.html").is_file()


# --- charts -----------------------------------------------------------------------------------------------------------


def test_curves_and_costs_are_drawn_with_their_numbers(maker):
    for name, quality in (("erm", 0.4), ("acme/x", 0.6)):
        for level in ("0.95", "0.99"):
            maker.row(name, quality, level=level)
    board, page = site_of(maker)
    against_level, against_cost = charts(board.tasks[0])
    assert [panel.title for panel in against_level.panels] == ["acme/x@1", "erm@1"]
    rows = {row.method: row for row in board.tasks[0].rules[0].tables[0].rows}
    shown = against_level.numbers.rows[0]
    assert shown[0] == "acme/x@1"
    assert shown[1].startswith(f"{100 * rows['acme/x@1'].metrics['acc_conflicting'].value:.1f} [")
    # Both cost the same, so only the better one is unbeaten.
    assert [(line[0], line[-1]) for line in against_cost.numbers.rows] == [("acme/x", "yes"), ("erm", "no")]
    assert len([each for each in page.named("svg") if each.get("role") == "img" and each["aria-label"]]) == 3


def test_a_bar_has_its_ends_where_the_scale_says():
    found = Estimate(value=0.5, low=0.25, high=0.75)
    assert 'd="M48 3v8M26 7h44"' in drawing.bar(found, drawing.Scale(0.0, 1.0))
    assert drawing.bar(Estimate(value=None), drawing.Scale(0.0, 1.0)) == ""
    assert 'd="M4 3v8"' in drawing.bar(Estimate(value=-3.0), drawing.Scale(0.0, 1.0))


def test_a_rank_interval_covers_its_share_of_the_strip():
    assert 'd="M16 7h24"' in drawing.rank_bar(2, 3, 4)


def test_a_scale_holds_all_values_even_if_they_are_one():
    assert drawing.Scale.around([0.5, None], step=0.05) == drawing.Scale(0.5, 0.55)
    wide = drawing.Scale.around([0.12, 0.88], step=0.1)
    assert (wide.low, wide.high) == pytest.approx((0.1, 0.9))


# --- pictures and submissions -----------------------------------------------------------------------------------------


def add_sheet(folder, size=(900, 600)):
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (*size, 3), dtype=np.uint8)).save(folder / pictures.SHEET)


def test_a_contact_sheet_is_shown_small(maker):
    for folder in maker.row("acme/x", 0.6):
        add_sheet(folder)
    board, page = site_of(maker)
    blocks, content = page.blocks(board.tasks[0].rules[0].tables[0].rows[0])
    kind, (alt, source) = blocks["Generated beside real images"]
    assert (kind, content["texts"][alt][:9]) == ("i", "Generated")
    data = base64.b64decode(content["texts"][source].removeprefix("data:image/jpeg;base64,"))
    assert len(data) <= pictures.MOST_BYTES
    assert sum(text.startswith("data:") for text in content["texts"]) == 1  # one for the method, not one a seed


def test_no_picture_of_people_is_shown(maker, monkeypatch):
    for folder in maker.row("acme/x", 0.6):
        add_sheet(folder)
    _, runs = collect([maker.results], verification=maker.verification)
    assert pictures.pictures(runs)
    monkeypatch.setattr(pictures, "may_show_pictures", lambda task: False)
    assert not pictures.pictures(runs)


@pytest.mark.slow
def test_a_contact_sheet_of_faces_stays_out_of_the_page(real_data, tmp_path):
    accepted = Path(build.__file__).parent / "results" / "utkface" / "erm"
    folder = shutil.copytree(next(accepted.iterdir()), tmp_path / "run")
    add_sheet(folder)
    board, runs = collect([folder])
    assert [task.task for task in board.tasks] == ["utkface@1"]
    page = Page(render_page(board, runs))
    assert not [text for text in page.details["texts"] if text.startswith("data:")]


@pytest.mark.parametrize("task", ["celeba-blond@1", "celeba-smiling@1", "utkface@1", "hard-imagenet@1", "unknown@1"])
def test_pictures_of_people_and_of_imagenet_may_not_be_shown(task):
    assert not pictures.may_show_pictures(task)


def test_what_is_no_picture_is_left_out(maker, tmp_path):
    folder = maker.run("acme/x", 0)
    (folder / pictures.SHEET).write_text("<script>")
    _, runs = collect([maker.results], verification=maker.verification)
    assert not pictures.pictures(runs)
    (folder / pictures.SHEET).unlink()
    add_sheet(tmp_path)
    (folder / pictures.SHEET).symlink_to(tmp_path / pictures.SHEET)
    assert not pictures.pictures(runs)


def test_submitters_say_who_they_are(maker, tmp_path):
    maker.row("acme/x", 0.6)
    content = {
        "format_version": 1, "method": "acme/x@1", "title": "X", "authors": ["A. Person"], "links": ["https://x.org/"],
        "citation": "@misc{x,\n  title = {</script><script>alert(1)</script>}\n}", "note": "<b>bold</b>",
    }  # fmt: skip
    (tmp_path / "about").mkdir()
    write_json(tmp_path / "about" / "x.json", content)
    board, page = site_of(maker, submissions=read_submissions(tmp_path / "about"))
    blocks, details = page.blocks(board.tasks[0].rules[0].tables[0].rows[0])
    texts = details["texts"]
    assert [texts[each] for each in blocks["Links"][1]] == ["https://x.org/"]
    assert texts[blocks["Citation"][1]] == content["citation"]
    assert {texts[k]: texts[v] for k, v in blocks["Submitted"][1]}["note"] == "<b>bold</b>"
    write_json(tmp_path / "about" / "x.json", content | {"links": ["javascript:alert(1)"]})
    with pytest.raises(DamagedFile, match="links"):
        read_submissions(tmp_path / "about")


# --- words ------------------------------------------------------------------------------------------------------------


def test_the_board_s_own_texts_become_html():
    assert inline("**a** *i* `b<c` \\*") == "<strong>a</strong> <em>i</em> <code>b&lt;c</code> *"
    assert listed("## Head\n\n- **A.** one\n  two\n- B") == "<ul><li><strong>A.</strong> one two</li><li>B</li></ul>"


def test_bibtex_keeps_its_lines_but_no_controls():
    assert several_lines(f"@x{{a,\n  author = {{{'A. Person and ' * 40}}}\n}}", 4_000).count("Person") == 40
    assert several_lines("@x{a,\n  b = {c\u202e}\n}", 100) == "@x{a,\n  b = {c\N{REPLACEMENT CHARACTER}}\n}"


def test_differences_have_signs_unless_they_round_to_nothing():
    assert [signed(value) for value in (0.012, -0.012, 0.0001, -0.0001)] == ["+1.2", "−1.2", "0.0", "0.0"]
