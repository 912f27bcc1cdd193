"""The sections of an audit's page below its headlines: each with its numbers, charts and images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np

from benchmark.audits.charts import (
    ASKED,
    REAL,
    SEEN,
    Gallery,
    Grid,
    Mark,
    heat_map,
    key,
    scale_end,
    scale_head,
    show_gallery,
    track,
)
from benchmark.audits.headlines import ASKED_BY, VERDICT_COLOURS
from benchmark.audits.markup import (
    Number,
    Numbers,
    capital,
    chip,
    counted,
    hundredths,
    percent,
    points,
    section,
    table,
    tenths_of_percent,
    text,
    thousandths,
    times_thousand,
    whole_percent,
)
from benchmark.audits.report import GroupEstimates, Judgement, Moved, Report, Sample, Typicality
from benchmark.records.schema import GroupAudit, MetricValue, Shares

MANY = 20
"""More groups, or pairs of attribute values, are shown as heat maps."""

_QUALITY = ("precision", "recall", "density", "coverage")


class Sections:
    """Sections of one report, which must be made in the order of the page: reasons are numbered as they come.

    Args:
        report: The report.
        numbers: Writes its numbers.
        galleries: The images with the contact sheet of each panel.
    """

    def __init__(self, report: Report, numbers: Numbers, galleries: Sequence[tuple[Gallery, Sequence[bytes]]]) -> None:
        self._report, self._numbers, self._galleries = report, numbers, galleries
        self._task = report.task
        self._label, self._attribute = text(report.task.label), text(report.task.attribute)
        self._grid = Grid.of_task(report.task)
        self._groups = [(y, a) for y, values in enumerate(report.task.possible) for a in values]
        self._few = len(self._groups) <= MANY
        counts = np.array(report.training.counts, dtype=np.float64)
        self._training: Shares = (counts / max(counts.sum(), 1)).tolist()

    # --- pieces ---

    def _name(self, y: int, a: int) -> str:
        name = text(f"{self._task.labels[y]} / {self._task.attributes[a]}")
        return f"<u>{name}</u>" if self._task.aligned[y] == a else name

    def _map(self, caption: str, values: Shares, end: float, number: Number, why_null: str, note: str = "") -> str:
        return heat_map(
            self._grid, values, self._numbers, caption=caption, note=note, end=end, number=number, why_null=why_null
        )

    def _estimate(self, found: GroupEstimates | GroupAudit, y: int, a: int, why_null: str) -> MetricValue:
        value = (found.value if isinstance(found, GroupEstimates) else found.corrected)[y][a]
        reason = why_null if value is None else None
        return MetricValue(value=value, low=found.low[y][a], high=found.high[y][a], interval="bootstrap", reason=reason)

    def _shown(self, where: str, heading: Literal["h3", "h4"]) -> str:
        return "".join(
            show_gallery(gallery, sheets, heading) for gallery, sheets in self._galleries if gallery.section == where
        )

    # --- groups ---

    def groups(self) -> str:
        """Return the section of the shares of groups, with images."""
        training = self._report.training
        told = (
            f"<p>A group is a pair of label ({self._label}) and attribute ({self._attribute}). <em>Bias-aligned</em> "
            "images show the attribute that goes with their label in the biased data (underlined below), "
            f"<em>conflicting</em> ones another. Of the {counted(int(np.sum(training.counts)), 'training image')}, "
            f"{percent(training.conflicting)} are conflicting.</p>"
        )
        return section("Groups", told, *(self._groups_of(sample) for sample in self._report.samples))

    def _groups_of(self, sample: Sample) -> str:
        if sample.groups is None:
            shares = f"<p>Shares of groups: {self._numbers.null(sample.groups_reason or '')}</p>"
        else:
            asked = any(value is not None for row in sample.groups.asked for value in row)
            shares = (self._few_shares if self._few else self._many_shares)(sample.groups, asked=asked)
            shares += self._as_answered(sample.groups)
        by_class = self._by_class(sample) if sample.asked_by == "class" else ""
        head = f"<h3>{ASKED_BY[sample.asked_by]}: {counted(sample.images, 'image')}</h3>"
        return head + by_class + shares + self._shown(sample.asked_by, "h4")

    def _by_class(self, sample: Sample) -> str:
        everything = zip([*self._task.labels, "all"], [*sample.conflicting_by_class, sample.conflicting], strict=True)
        rows = [(text(name), judged) for name, judged in everything]
        end = scale_end(end for _, j in rows for end in (j.training, j.generated.value, j.generated.high))
        return key(REAL, SEEN) + table(
            "Share of bias-conflicting images, by class",
            [self._label, scale_head(end), "training", "generated", "verdict"],
            ((name, self._judgement(judged, end)) for name, judged in rows),
        )

    def _judgement(self, judged: Judgement, end: float) -> list[str]:
        seen = judged.generated
        return [
            track([Mark("real", judged.training), Mark("seen", seen.value, seen.low, seen.high)], end),
            self._numbers.plain(judged.training, percent, "the training data hold no image of this class"),
            self._numbers.value(seen),
            chip(judged.verdict, VERDICT_COLOURS.get(judged.verdict, "none"), judged.why),
        ]

    def _few_shares(self, groups: GroupAudit, *, asked: bool) -> str:
        end = scale_end(
            part[y][a]
            for part in (self._training, groups.asked, groups.corrected, groups.high)
            for y, a in self._groups
        )
        heads = ["group", scale_head(end), "training", *(["asked for"] if asked else []), "generated"]
        rows = [(self._name(y, a), self._share(groups, y, a, end, asked=asked)) for y, a in self._groups]
        return key(REAL, *([ASKED] if asked else []), SEEN) + table("Share of each group", heads, rows)

    def _share(self, groups: GroupAudit, y: int, a: int, end: float, *, asked: bool) -> list[str]:
        real, wanted = self._training[y][a], groups.asked[y][a]
        seen = self._estimate(groups, y, a, "the auditor cannot tell this value from others")
        marks = [Mark("asked", wanted), Mark("real", real), Mark("seen", seen.value, seen.low, seen.high)]
        cells = [track(marks, end), percent(real or 0.0)]
        if asked:
            cells.append(self._numbers.plain(wanted, percent, "the attribute was free"))
        return [*cells, self._numbers.value(seen)]

    def _many_shares(self, groups: GroupAudit, *, asked: bool) -> str:
        maps = [("Training data", self._training), *([("Asked for", groups.asked)] if asked else [])]
        maps.append(("Generated", groups.corrected))
        return self._share_maps(maps, "the attribute was free, or the auditor cannot tell this value from others")

    def _share_maps(self, maps: Sequence[tuple[str, Shares]], why_null: str) -> str:
        end = scale_end(part[y][a] for _, part in maps for y, a in self._groups)
        shown = (self._map(name, part, end, tenths_of_percent, why_null, "% of all images") for name, part in maps)
        return f'<div class="maps">{"".join(shown)}</div>'

    def _as_answered(self, groups: GroupAudit) -> str:
        maps = [("Generated, as answered", groups.raw)]
        told = (
            f"<p>By its answers, {self._numbers.value(groups.conflicting_raw)} of the generated images are "
            f"conflicting; corrected for its errors, {self._numbers.value(groups.conflicting)}."
        )
        if (held := self._report.held_out) is not None:
            told += (
                f" Of {counted(held.images, 'real image')} that it never saw, {percent(held.conflicting)} are "
                f"conflicting; by its answers, {self._numbers.value(held.conflicting_raw)}."
            )
            maps += [("Unseen real images, as they are", held.shares), ("Unseen real images, as answered", held.raw)]
        shown = self._share_maps(maps, "no image that the auditor could answer for")
        return f"<details><summary>What the auditor answered, uncorrected</summary>{told}</p>{shown}</details>"

    # --- fidelity and quality ---

    def fidelity(self) -> str:
        """Return the section of label fidelity."""
        return section("Label fidelity", *(self._fidelity_of(sample) for sample in self._report.samples))

    def _fidelity_of(self, sample: Sample) -> str:
        parts = {f"label ({self._label})": (sample.fidelity.y, sample.fidelity.y_raw)}
        if sample.asked_by == "group":
            parts[f"attribute ({self._attribute})"] = (sample.fidelity.a, sample.fidelity.a_raw)
        told = ", ".join(
            f"{name} in {self._numbers.value(corrected)} (as answered {self._numbers.value(raw)})"
            for name, (corrected, raw) in parts.items()
        )
        head = f"<h3>{ASKED_BY[sample.asked_by]}</h3><p>What was asked for is shown: {told}.</p>"
        return head + (self._class_fidelity(sample) if sample.by_group is None else self._group_fidelity(sample))

    def _class_fidelity(self, sample: Sample) -> str:
        rows = (
            (text(name), [track([Mark("seen", found.value, found.low, found.high)], 1.0), self._numbers.value(found)])
            for name, found in zip(self._task.labels, sample.y_by_class, strict=True)
        )
        return table("Images that show the label asked for", [self._label, scale_head(1.0), "shown"], rows)

    def _group_fidelity(self, sample: Sample) -> str:
        assert sample.by_group is not None
        found = sample.by_group
        parts = ((self._task.label, found.y), (self._task.attribute, found.a))
        why = "no image of this group was asked for, or the auditor cannot tell"
        if not self._few:
            note = "% of the images asked for"
            maps = (
                self._map(f"{capital(name)} shown", part.value, 1, whole_percent, why, note) for name, part in parts
            )
            return f'<div class="maps">{"".join(maps)}</div>'
        rows = []
        for y, a in self._groups:
            shown = [self._numbers.value(self._estimate(part, y, a, why)) for _, part in parts]
            rows.append((self._name(y, a), [f"{found.images[y][a]:,}", *shown]))
        heads = ["asked for", "images", *(text(f"{name} shown") for name, _ in parts)]
        return table("Images that show what was asked for, by group", heads, rows)

    def quality(self) -> str:
        """Return the section of quality and variety."""
        return section("Quality and variety", *(self._quality_of(sample) for sample in self._report.samples))

    def _quality_of(self, sample: Sample) -> str:
        features = self._report.extractors.get("fid", "")
        told = (
            f"<h3>{ASKED_BY[sample.asked_by]}</h3><p>FID {self._numbers.value(sample.fid, hundredths)}, KID "
            f"{self._numbers.value(sample.kid, thousandths)}{text(f', on {features}') if features else ''}; lower is "
            "closer to real images.</p>"
        )
        if (groups := sample.groups) is None:
            return told
        told += (
            f"<p>By group, on {text(groups.extractor)} and {counted(groups.neighbours, 'neighbour')}: precision and "
            "density say how real the images look, recall and coverage how much of the real variety they reach.</p>"
        )
        why = f"too few images of this group for {counted(groups.neighbours, 'neighbour')}"
        parts: list[Shares] = [getattr(groups, name) for name in _QUALITY]
        if not self._few:
            maps = (
                self._map(capital(name), part, 1.0, hundredths, why) for name, part in zip(_QUALITY, parts, strict=True)
            )
            return f'{told}<div class="maps">{"".join(maps)}</div>'
        rows = [
            (self._name(y, a), [self._numbers.plain(part[y][a], hundredths, why) for part in parts])
            for y, a in self._groups
        ]
        return told + table("Quality by group", ["group", *_QUALITY], rows)

    # --- the generator itself ---

    def typicality(self) -> str:
        """Return the section of typicality, with images."""
        title, found = "Typical and untypical images", self._report.typicality
        if found is None:
            return section(title, f"<p>Typicality: {self._numbers.null(self._report.typicality_reason or '')}</p>")
        told = (
            "<p>Typicality is how much better the generator denoises an image when it is told what the image shows "
            f"(Siglidis 2024). Here: of {'training' if found.of == 'real' else 'generated'} images, over "
            f"{counted(found.draws, 'draw')} of noise, times 1,000. Below 0 the condition does not help.</p>"
        )
        return section(title, told, self._mean_typicality(found), self._shown("typicality", "h3"))

    def _mean_typicality(self, found: Typicality) -> str:
        by_class = any(group.a is None for group in found.groups)
        if by_class or self._few:
            rows = [
                (
                    text(self._task.labels[group.y]) if group.a is None else self._name(group.y, group.a),
                    [self._numbers.value(group.mean, times_thousand)],
                )
                for group in found.groups
            ]
            return table("Mean typicality", [self._label if by_class else "group", "× 1,000"], rows)
        means: Shares = [[None] * len(self._task.attributes) for _ in self._task.labels]
        for group in found.groups:
            means[group.y][group.a or 0] = group.mean.value
        end = scale_end(value for row in means for value in row)
        return self._map("Mean typicality", means, end, times_thousand, "no image of this group", "× 1,000")

    def transfer(self) -> str:
        """Return the section of images whose attribute an invertible network changed; empty for others."""
        found = self._report.transfer
        if found is None:
            return ""
        overall = found.overall
        told = (
            "<p>Each image keeps its latent code and is decoded with another attribute. As answered, without "
            f"correction: label kept in {self._numbers.value(overall.y_kept_raw)}, attribute reached "
            f"in {self._numbers.value(overall.a_reached_raw)}, both in {self._numbers.value(overall.both_raw)}.</p>"
        )
        parts = {"y_kept": f"{self._task.label} kept", "a_reached": f"{self._task.attribute} reached", "both": "both"}
        if len(found.pairs) > MANY:
            shown = f'<div class="maps">{"".join(self._moved_maps(parts))}</div>'
        else:
            names = self._task.attributes
            rows = [
                (text(f"{names[pair.source]} → {names[pair.target]}"), self._moved(pair.moved, parts))
                for pair in found.pairs
            ]
            shown = table("By attribute", ["from → to", "images", *map(text, parts.values())], rows)
        return section("Changing only the attribute", told, shown, self._shown("transfer", "h3"))

    def _moved(self, moved: Moved, parts: dict[str, str]) -> list[str]:
        return [f"{moved.images:,}", *(self._numbers.value(getattr(moved, part)) for part in parts)]

    def _moved_maps(self, parts: dict[str, str]) -> Iterator[str]:
        assert self._report.transfer is not None
        grid, values_of_a = Grid.between_attributes(self._task), self._task.attributes
        for part, caption in parts.items():
            values: Shares = [[None] * len(values_of_a) for _ in values_of_a]
            for pair in self._report.transfer.pairs:
                values[pair.source][pair.target] = getattr(pair.moved, part).value
            yield heat_map(
                grid, values, self._numbers, caption=capital(caption), note="% of the images", end=1.0,
                number=whole_percent, why_null="no image was moved this way, or the auditor cannot tell",
            )  # fmt: skip

    def matched(self) -> str:
        """Return the section of matched samples, with images; empty where there are none."""
        found = self._report.matched
        if found is None:
            return ""
        told = (
            f"<p>{counted(found.codes, 'latent code')}, each decoded under every condition: what differs within a row "
            f"of images is the condition's doing. Shifts are against “{text(found.conditions[0].name)}”, in points.</p>"
        )
        rows = [("bias-conflicting", self._conditions("conflicting"))]
        for part, of, names in (
            ("a", self._attribute, self._task.attributes),
            ("y", self._label, self._task.labels),
        ):
            rows += [(f"{of}: {text(name)}", self._conditions(part, k)) for k, name in enumerate(names)]
        heads = ["share of", *(text(condition.name) for condition in found.conditions)]
        shares = table("Shares under every condition", heads, rows)
        return section("Matched samples", told, self._shown("matched", "h3"), shares)

    def _conditions(self, part: str, k: int = 0) -> list[str]:
        assert self._report.matched is not None

        def chosen(found: MetricValue | list[MetricValue]) -> MetricValue:
            return found[k] if isinstance(found, list) else found

        cells = []
        for condition in self._report.matched.conditions:
            cell = self._numbers.value(chosen(getattr(condition, part)))
            if condition.shift is not None:
                cell += f"<div>shift {self._numbers.value(chosen(getattr(condition.shift, part)), points)}</div>"
            cells.append(cell)
        return cells

    # --- what a classifier can learn ---

    def readable(self) -> str:
        """Return the section of probes and information."""
        return section(
            "What a classifier can read off", *(self._readable_of(sample) for sample in self._report.samples)
        )

    def _readable_of(self, sample: Sample) -> str:
        probes = sample.probes
        names = {"a": self._attribute, "g": "real or generated", "ag": f"{self._attribute} and real or generated"}
        rows = [
            (name, [self._numbers.value(getattr(probes, of)), self._numbers.value(getattr(probes, f"{of}_chance"))])
            for of, name in names.items()
        ]
        told = (
            "<p>About the label, the attribute tells "
            f"{self._numbers.value(self._report.training.information_y_a, thousandths)} bits in the training data, "
            f"{self._numbers.value(sample.information_y_a, thousandths)} bits with these images added, and together "
            f"with the source (real or generated) {self._numbers.value(sample.information_y_ag, thousandths)} bits.</p>"
        )
        probed = table("Linear probes: balanced accuracy", ["what is read", "right", "by guessing"], rows)
        return f"<h3>{ASKED_BY[sample.asked_by]}</h3>{probed}{told}"
