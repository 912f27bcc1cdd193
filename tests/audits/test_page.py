"""The page of an audit: self-contained, safe, readable, and silent about nothing that is missing."""

from __future__ import annotations

import base64
import io
import itertools
import re
import unicodedata
from collections import Counter
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from benchmark.audits import page as page_module
from benchmark.audits.charts import Gallery, Grid, Mark, contact_sheets, scale_end, track
from benchmark.audits.markup import percent, points
from benchmark.audits.page import PAGE_FILE, REPORT_FILE, render, write_report
from benchmark.audits.report import Report
from benchmark.errors import InvalidValue, StoreError
from benchmark.records.schema import Record
from benchmark.tasks.catalog import load_task
from benchmark.tasks.manifest import TRAIN

MakeReport = Callable[..., Report]

TEMPLATE = Path(page_module.__file__).with_name("page.html")
VOID = {"meta", "img", "br", "line", "circle"}
INLINE = {"a", "code", "em", "small", "span", "strong", "sup", "u"}
HOSTILE = "<script src='//evil'>\u202e\"&$body\x00</script>"


class Parsed(HTMLParser):
    """What a browser would find: elements with their attributes, texts, and headings."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.open: list[str] = []
        self.texts: list[str] = []
        self.headings: list[tuple[int, str]] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        if re.fullmatch("h[1-6]", tag):
            self.headings.append((int(tag[1]), ""))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag
        if tag not in INLINE:
            self.texts.append(" ")

    def handle_data(self, data: str) -> None:
        if "style" in self.open:
            return
        self.texts.append(data)
        if self.open and re.fullmatch("h[1-6]", self.open[-1]):
            self.headings[-1] = (self.headings[-1][0], self.headings[-1][1] + data)

    @property
    def text(self) -> str:
        return " ".join("".join(self.texts).split())

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture(scope="module")
def digits() -> np.ndarray:
    task = load_task("colorized-digits")
    return np.asarray(task.images(task.manifest("balanced", 0).splits[TRAIN], 32))


@pytest.fixture(scope="module")
def galleries(digits: np.ndarray) -> list[Gallery]:
    return [
        Gallery("class", "Images by class", ("zero", "one"), (digits[None, :8], digits[None, 8:16])),
        Gallery("group", "One image of every group", ("generated",), (digits[:100].reshape(10, 10, 32, 32, 3),)),
        Gallery("typicality", "Most and least typical", ("zero / red",), (digits[:6].reshape(2, 3, 32, 32, 3),),
                rows=("most", "least")),
        Gallery("transfer", "Moved", ("one image",), (digits[None, :2],), columns=("red", "magenta")),
        Gallery("matched", "The same latent code", ("4 codes",), (digits[:8].reshape(4, 2, 32, 32, 3),),
                columns=("balanced", "0.99")),
    ]  # fmt: skip


@pytest.fixture(scope="module")
def page(make_report: MakeReport, galleries: list[Gallery]) -> str:
    return render(make_report(), galleries)


def card_of(page: str, question: str) -> str:
    """The text of one answer at the top."""
    (found,) = re.findall(rf"<div><h3>{re.escape(question)}</h3>(.*?)</div>", page)
    return Parsed(found).text


# --- what it says ----------------------------------------------------------------------------------------------------


def test_each_question_is_answered_with_number_interval_and_verdict(page: str, accepted: Record) -> None:
    y = accepted.pools[0].label_fidelity["y"]
    assert y.low is not None
    assert y.high is not None
    shown = card_of(page, "Does it show what it was asked for?")
    assert f"{100 * y.value:.1f} % [{100 * y.low:.1f}, {100 * y.high:.1f}] in part show the label (digit)" in shown
    assert "[99.5, 100.0] yes the attribute (ink) asked for." in shown
    groups = card_of(page, "Which groups does it make when only the class is named?")
    assert "of its images are bias-conflicting; of the training data 10.1 %. amplified" in groups
    assert "1 of 100 groups were never seen." in groups
    assert "0.0 % [0.0, 0.2] are near copies of one" in card_of(page, "Does it copy training images?")
    assert "differs from real" in card_of(page, "How good and how varied?")
    source = card_of(page, "Can a classifier tell real from generated?")
    assert "[98.6, 99.8], by guessing in 50.0 %. yes" in source
    assert "71.0 % [69.0, 73.0] keep their label" in card_of(
        page, "When only the attribute is changed, does the label stay?"
    )


def test_an_answer_is_yes_or_no_by_its_whole_interval(make_report: MakeReport) -> None:
    content = make_report().model_dump(mode="json")
    fidelity = content["samples"][1]["fidelity"]
    fidelity["y"] |= {"value": 0.45, "low": 0.40, "high": 0.49}
    fidelity["a"] |= {"value": 0.95, "low": 0.89, "high": 0.99}
    shown = card_of(render(Report.model_validate(content), []), "Does it show what it was asked for?")
    assert "[40.0, 49.0] no show the label" in shown
    assert "[89.0, 99.0] in part the attribute" in shown


def test_more_near_copies_than_chance_and_no_trace_of_the_source_are_said(make_report: MakeReport) -> None:
    content = make_report().model_dump(mode="json")
    for sample in content["samples"]:
        sample["memorised_share"] |= {"value": 0.05, "low": 0.03, "high": 0.08}
        sample["probes"]["g"] |= {"value": 0.52, "low": 0.48, "high": 0.56}
        sample["kid"] |= {"value": 0.0, "low": -0.01, "high": 0.01}
    page = render(Report.model_validate(content), [])
    assert "more than by chance" in card_of(page, "Does it copy training images?")
    assert "by guessing in 50.0 %. no sign" in card_of(page, "Can a classifier tell real from generated?")
    assert "KID 0.000 [−0.010, 0.010]. no difference seen" in card_of(page, "How good and how varied?")


def test_without_images_the_page_says_so(make_report: MakeReport) -> None:
    page = render(
        make_report(samples=[], transfer=None, matched=None, typicality=None, typicality_reason="no generator"), []
    )
    assert card_of(page, "Does it copy training images?") == "No images were sampled. not measured"
    assert "Matched samples" not in page
    assert "When only the attribute is changed" not in page


def test_few_groups_are_rows_with_tracks_and_many_are_heat_maps(make_report: MakeReport, page: str) -> None:
    few = Parsed(render(make_report("celeba-blond"), []))
    assert "blond / male 1.4 % 25.0 %" in few.text
    assert "Training data % of all images" not in few.text
    many = Parsed(page)
    assert "Training data % of all images" in many.text
    assert "zero / red" not in Parsed(render(make_report(), [])).text


def test_nested_attributes_make_as_many_columns_as_a_class_has(make_report: MakeReport) -> None:
    report = make_report("cifar20-100")
    grid = Grid.of_task(report.task)
    assert grid.columns == ("1", "2", "3", "4", "5")
    fish = [grid.names[place] for place in grid.places[grid.rows.index("fish")]]
    assert fish == ["aquarium fish", "flatfish", "ray", "shark", "trout"]
    assert "aquarium fish" in render(report, [])
    between = Grid.between_attributes(report.task)
    assert (len(between.rows), len(between.columns)) == (100, 5)
    animals = make_report("spuco-animals").task
    assert Grid.of_task(animals).places == Grid.between_attributes(animals).places == ((0, 1), (0, 1), (2, 3), (2, 3))


# --- what is missing -------------------------------------------------------------------------------------------------


def test_what_is_undefined_is_a_dash_with_its_reason_and_never_a_number(make_report: MakeReport) -> None:
    content = make_report().model_dump(mode="json")
    reasons = [f"the auditor could not look, part {k}" for k in range(4)]
    null = [{"value": None, "low": None, "high": None, "interval": "none", "reason": reason} for reason in reasons]
    for sample in content["samples"]:
        sample |= {
            "memorised_share": null[0],
            "fid": null[1],
            "kid": null[2],
            "groups": None,
            "groups_reason": reasons[3],
        }
    content |= {"typicality": None, "typicality_reason": "an invertible network has no denoising loss"}
    page = render(Report.model_validate(content), [])
    parsed = Parsed(page)
    assert "—1 are near copies of one; of unseen real images about 1 % would be. not measured" in parsed.text
    listed = parsed.text.partition("What was not measured")[2]
    for reason in [*reasons, "an invertible network has no denoising loss"]:
        assert listed.count(reason) == 1
        assert f'title="{reason}"' in page
    assert "memory of the network was not measured" in listed


def test_every_number_behind_a_dash_leads_to_a_reason(page: str) -> None:
    parsed = Parsed(page)
    links = {link["href"] for link in parsed.all("a")}
    assert links == {f"#{item['id']}" for item in parsed.all("li") if "id" in item}
    assert "too few images of this group for 3 neighbours" in parsed.text.partition("Behind each")[2]
    # The cell itself says why, too.
    assert '<td class="null" title="too few images of this group for 3 neighbours">—</td>' in page


# --- safe, closed, stable --------------------------------------------------------------------------------------------


def test_the_page_asks_for_nothing_outside_of_itself(page: str) -> None:
    parsed = Parsed(page)
    policy = {"http-equiv": "Content-Security-Policy",
              "content": "default-src 'none'; img-src data:; style-src 'unsafe-inline'"}  # fmt: skip
    assert policy in parsed.all("meta")
    assert not {"script", "link", "iframe", "object", "embed", "form", "base"} & {tag for tag, _ in parsed.elements}
    assert all(image["src"].startswith("data:image/png;base64,") for image in parsed.all("img"))
    for _, attributes in parsed.elements:
        assert not any(name.startswith("on") for name in attributes)
        assert attributes.get("href", "#").startswith("#")
    assert "//" not in re.sub(r"base64,[A-Za-z0-9+/=]*", "", page)
    assert "url(" not in page
    assert "@import" not in page


def test_hostile_names_stay_text(make_report: MakeReport, digits: np.ndarray) -> None:
    def poisoned(part: Any) -> Any:
        if isinstance(part, dict):
            return {name: poisoned(value) for name, value in part.items()}
        if isinstance(part, list):
            return [poisoned(value) for value in part]
        free = isinstance(part, str) and not re.fullmatch(r"[0-9a-f]{40,64}|[a-z0-9 -]{1,18}", part)
        return f"{part}{HOSTILE}" if free else part

    plain = make_report().model_dump(mode="json")
    content = poisoned(plain)
    content["subject"] |= {"name": HOSTILE, "identity": {HOSTILE: HOSTILE}}
    content["task"] |= {
        "label": HOSTILE,
        "attribute": HOSTILE,
        "labels": [f"{HOSTILE}{k}" for k in range(10)],
        "attributes": [f"{HOSTILE}{k}" for k in range(10)],
    }
    gallery = Gallery("group", HOSTILE, (HOSTILE,), (digits[None, :1],), columns=(HOSTILE,), rows=(HOSTILE,))
    page = render(Report.model_validate(content), [gallery])
    expected = render(
        Report.model_validate({**plain, "subject": {**plain["subject"], "identity": {"name": "x"}}}),
        [Gallery("group", "x", ("x",), (digits[None, :1],), columns=("magenta",), rows=("x",))],
    )
    tags = [Counter(tag for tag, _ in Parsed(text).elements) for text in (page, expected)]
    assert tags[0] == tags[1]
    assert "<script src='//evil'>" in Parsed(page).text
    assert not {character for character in page if unicodedata.category(character).startswith("C")} - {"\n"}


def test_the_same_report_makes_the_same_bytes(make_report: MakeReport, galleries: list[Gallery], page: str) -> None:
    again = Report.model_validate_json(make_report().model_dump_json())
    copies = [
        Gallery(part.section, part.title, part.captions, tuple(panel.copy() for panel in part.panels), part.columns,
                part.rows) for part in galleries
    ]  # fmt: skip
    assert render(again, copies) == page


def test_people_are_kept_from_being_published(make_report: MakeReport, page: str) -> None:
    assert "do not publish it" in Parsed(render(make_report("celeba-blond"), [])).text
    assert "do not publish it" not in page


# --- readable --------------------------------------------------------------------------------------------------------


def test_headings_are_in_order_and_everything_has_a_name(page: str) -> None:
    parsed = Parsed(page)
    assert not parsed.open
    levels = [level for level, _ in parsed.headings]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
    assert all(title.strip() for _, title in parsed.headings)
    assert next(title for level, title in parsed.headings if level == 2) == "In one minute"
    assert len(parsed.all("img")) == 6
    assert "Images by class, one: 1 × 8 images" in [image["alt"] for image in parsed.all("img")]
    assert all(image["alt"] for image in parsed.all("img"))
    assert all(head["scope"] in ("col", "row") for head in parsed.all("th"))
    assert len(parsed.all("caption")) == len(parsed.all("table"))
    assert all(drawing["aria-hidden"] == "true" for drawing in parsed.all("svg"))
    ids = [attributes["id"] for _, attributes in parsed.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert parsed.all("html") == [{"lang": "en"}]


def _luminance(colour: np.ndarray) -> float:
    linear = np.where(colour <= 0.04045, colour / 12.92, ((colour + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_texts_stand_out_from_their_ground(scheme: int) -> None:
    block = re.findall(r":root \{(.*?)\}", TEMPLATE.read_text(), flags=re.DOTALL)[scheme]
    named = dict(re.findall(r"--([a-z-]+): #([0-9a-f]{6})", block))
    colours = {name: np.array([int(code[k : k + 2], 16) / 255 for k in (0, 2, 4)]) for name, code in named.items()}
    kinds = ("good", "bad", "mixed", "none")
    texts = [("ink", "base"), ("ink", "panel"), ("ink", "heat"), ("soft", "base"), ("soft", "panel"), ("link", "base"),
             ("link", "panel"), *((kind, f"{kind}-back") for kind in kinds)]  # fmt: skip
    # Text needs 4.5 : 1, what is drawn 3 : 1 (WCAG 2, AA).
    for pairs, least in ((texts, 4.5), ([(mark, "base") for mark in ("seen", "real", "asked")], 3.0)):
        for front, back in pairs:
            light, dark = sorted((_luminance(colours[front]), _luminance(colours[back])), reverse=True)
            assert (light + 0.05) / (dark + 0.05) >= least, (front, back)


@pytest.mark.parametrize(
    ("values", "end"),
    [([0.092, None], 0.1), ([0.1001], 0.15), ([0.3, 0.1], 0.3), ([0.1 + 0.2], 0.3), ([1.0], 1.0), ([0.0], 1.0),
     ([None], 1.0), ([0.0112], 0.015)],
)  # fmt: skip
def test_scales_end_at_a_round_number(values: list[float | None], end: float) -> None:
    assert scale_end(values) == pytest.approx(end)


def test_marks_stand_where_their_values_are() -> None:
    drawn = track([Mark("real", 0.5), Mark("seen", 0.25, 0.0, 1.0), Mark("asked", None)], 1.0)
    assert '<line class="real" x1="50.00%" x2="50.00%"' in drawn
    assert '<circle class="seen" cx="26.50%"' in drawn
    assert '<line class="interval" x1="3.00%" x2="97.00%"' in drawn
    assert "asked" not in drawn


def test_numbers_have_a_real_minus_and_no_negative_zero() -> None:
    assert percent(-0.00001) == "0.0\N{NARROW NO-BREAK SPACE}%"
    assert [points(value) for value in (0.123, -0.123, -0.00001, 0.0)] == ["+12.3", "−12.3", "0.0", "0.0"]


# --- images and files ------------------------------------------------------------------------------------------------


def test_small_images_are_shown_pixel_by_pixel(page: str, digits: np.ndarray) -> None:
    (source,) = [image["src"] for image in Parsed(page).all("img") if "Images by class, one" in image["alt"]]
    sheet = Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2])))
    cells = np.asarray(sheet).reshape(34, 8, 34, 4)
    assert (cells[:32, :, :32, :3].transpose(1, 0, 2, 3) == digits[8:16]).all()
    # What lies between them is transparent.
    assert (cells[32:, :, :, 3] == 0).all()
    assert (cells[:, :, 32:, 3] == 0).all()


@pytest.mark.slow
def test_the_page_of_a_hundred_groups_is_bounded_even_with_noise_for_images(make_report: MakeReport) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (100, 2, 4, 64, 64, 3), dtype=np.uint8)
    gallery = Gallery("typicality", "Noise", tuple(f"group {k}" for k in range(100)), tuple(noise))
    page = render(make_report(), [gallery])
    assert len(page.encode()) <= 2_000_000
    assert len(Parsed(page).all("img")) == 100


def test_more_images_than_fit_are_refused_and_nothing_is_written(make_report: MakeReport, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (40, 60, 16, 16, 3), dtype=np.uint8)
    gallery = Gallery("class", "Noise", ("everything",), (noise,))
    with pytest.raises(InvalidValue, match="2,400 images are too many for one page; show fewer of each group"):
        write_report(tmp_path / "audit", make_report(), [gallery])
    assert not (tmp_path / "audit").exists()
    with pytest.raises(InvalidValue, match="8 images are too many"):
        contact_sheets([Gallery("class", "Noise", ("some",), (noise[:2, :4],))], most_bytes=1_000)


@pytest.mark.parametrize(
    ("panel", "heads", "message"),
    [
        (np.zeros((2, 3, 8, 8, 3), dtype=np.float32), (), "needs panels of uint8"),
        (np.zeros((2, 8, 8, 3), dtype=np.uint8), (), "needs panels of uint8"),
        (np.zeros((2, 0, 8, 8, 3), dtype=np.uint8), (), "needs panels of uint8"),
        (np.zeros((2, 3, 8, 8, 3), dtype=np.uint8), ("one",), "1 heads for 3 rows or columns"),
    ],
)
def test_a_gallery_that_cannot_be_laid_out_is_refused(panel: np.ndarray, heads: tuple[str, ...], message: str) -> None:
    with pytest.raises(InvalidValue, match=message):
        Gallery("class", "x", ("x",), (panel,), columns=heads)
    with pytest.raises(InvalidValue, match="1 captions for 0 panels"):
        Gallery("class", "x", ("x",), ())


def test_json_and_page_are_written_side_by_side(
    make_report: MakeReport, galleries: list[Gallery], page: str, tmp_path: Path
) -> None:
    report = make_report()
    written = write_report(tmp_path / "new" / "audit", report, galleries)
    assert [path.name for path in written] == [REPORT_FILE, PAGE_FILE]
    assert Report.model_validate_json(written[0].read_text(encoding="utf-8")) == report
    assert written[1].read_text(encoding="utf-8") == page
    assert sorted(path.name for path in written[0].parent.iterdir()) == [PAGE_FILE, REPORT_FILE]


def test_a_file_in_the_place_of_the_folder_is_an_error(make_report: MakeReport, tmp_path: Path) -> None:
    (tmp_path / "audit").write_text("in the way")
    with pytest.raises(StoreError, match="a file stands where a folder is needed"):
        write_report(tmp_path / "audit", make_report(), [])
