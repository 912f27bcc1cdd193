"""The top of an audit's page: one answer in plain words to each question, with its number, interval and verdict."""

from __future__ import annotations

from collections.abc import Callable

from benchmark.audits.markup import (
    PERCENT,
    Colour,
    Numbers,
    chip,
    counted,
    hundredths,
    percent,
    section,
    text,
    thousandths,
    whole_percent,
)
from benchmark.audits.report import Report, Sample
from benchmark.records.schema import MetricValue, Shares

SHOWS, SHOWS_NOT = 0.9, 0.5
"""Shares of images above which the answer is yes, and below which it is no."""

_NEAR_BY_CHANCE = 0.01
"""Share of unseen real images that would count as memorised, by definition."""

ASKED_BY = {"class": "Asked for by class alone", "group": "Asked for by class and attribute"}

VERDICT_COLOURS: dict[str, Colour] = {"amplified": "bad", "replicated": "mixed", "reduced": "good"}


class Headlines:
    """Answers of one report.

    Args:
        report: The report.
        numbers: Writes its numbers.
    """

    def __init__(self, report: Report, numbers: Numbers) -> None:
        self._report, self._numbers, self._task = report, numbers, report.task

    def section(self) -> str:
        """Return the section of all questions."""
        answers = [
            ("Does it show what it was asked for?", self._each(self._fidelity)),
            ("Which groups does it make when only the class is named?", self._groups()),
            ("Does it copy training images?", self._each(self._copies)),
            ("How good and how varied?", self._each(self._quality)),
            ("Can a classifier tell real from generated?", self._each(self._source)),
        ]
        if self._report.transfer is not None:
            answers.append(("When only the attribute is changed, does the label stay?", self._transfer()))
        cards = "".join(f"<div><h3>{text(question)}</h3>{answer}</div>" for question, answer in answers)
        note = (
            f'<p class="soft">Square brackets: 95{PERCENT} intervals. Shares are corrected for the errors of the '
            "auditors, which are classifiers trained on held-out real images. “Yes” and “no”: the whole interval lies "
            f"above {whole_percent(SHOWS)}{PERCENT}, or below {whole_percent(SHOWS_NOT)}{PERCENT}.</p>"
        )
        return section("In one minute", f'<div class="answers">{cards}</div>{note}')

    def _each(self, answer: Callable[[Sample], str]) -> str:
        samples = self._report.samples
        if not samples:
            return f"<p>No images were sampled. {chip('not measured', 'none')}</p>"
        if len(samples) == 1:
            return f"<p>{answer(samples[0])}</p>"
        return "".join(f"<p><em>{ASKED_BY[sample.asked_by]}:</em> {answer(sample)}</p>" for sample in samples)

    def _fidelity(self, sample: Sample) -> str:
        label, attribute = text(self._task.label), text(self._task.attribute)
        told = f"Of {counted(sample.images, 'image')}, {self._shown(sample.fidelity.y)} show the label ({label})"
        if sample.asked_by == "group":
            told += f", {self._shown(sample.fidelity.a)} the attribute ({attribute})"
        return f"{told} asked for."

    def _shown(self, metric: MetricValue) -> str:
        if metric.low is None or metric.high is None:
            verdict = _no_verdict(metric)
        elif metric.low >= SHOWS:
            verdict = chip("yes", "good")
        else:
            verdict = chip("no", "bad") if metric.high < SHOWS_NOT else chip("in part", "mixed")
        return f"{self._numbers.value(metric)} {verdict}"

    def _groups(self) -> str:
        sample = next((sample for sample in self._report.samples if sample.asked_by == "class"), None)
        if sample is None:
            return f"<p>No images were asked for by class alone. {chip('not measured', 'none')}</p>"
        judged = sample.conflicting
        training = self._numbers.plain(judged.training, percent, judged.why)
        verdict = chip(judged.verdict, VERDICT_COLOURS.get(judged.verdict, "none"))
        told = (
            f"<p>{self._numbers.value(judged.generated)} of its images are bias-conflicting; of the training data "
            f"{training}. {verdict}</p><p>{text(judged.why)}</p>"
        )
        if sample.groups is not None:
            possible = {(y, a) for y, values in enumerate(self._task.possible) for a in values}
            unseen = len(possible & set(sample.groups.absent))
            told += f"<p>{unseen} of {counted(len(possible), 'group')} were never seen.</p>"
        return told

    def _copies(self, sample: Sample) -> str:
        verdict = self._above(sample.memorised_share, _NEAR_BY_CHANCE, ("more than by chance", "bad"), "no sign")
        return (
            f"{self._numbers.value(sample.memorised_share)} are near copies of one; of unseen real images about "
            f"{whole_percent(_NEAR_BY_CHANCE)}{PERCENT} would be. {verdict}"
        )

    def _quality(self, sample: Sample) -> str:
        told = (
            f"FID {self._numbers.value(sample.fid, hundredths)}, KID {self._numbers.value(sample.kid, thousandths)}. "
            f"{self._above(sample.kid, 0.0, ('differs from real', 'mixed'), 'no difference seen')}"
        )
        if sample.groups is None:
            return told
        precision, recall = _mean(sample.groups.precision), _mean(sample.groups.recall)
        if precision is None or recall is None:
            return told
        return (
            f"{told} On average over groups, {percent(precision)} of the images look real (precision), and "
            f"{percent(recall)} of the real variety is reached (recall)."
        )

    def _source(self, sample: Sample) -> str:
        read, chance = sample.probes.g, sample.probes.g_chance
        return (
            f"A linear probe is right in {self._numbers.value(read)}, by guessing in {self._numbers.value(chance)}. "
            f"{self._above(read, chance.value, ('yes', 'mixed'), 'no sign')}"
        )

    def _transfer(self) -> str:
        assert self._report.transfer is not None
        moved = self._report.transfer.overall
        return (
            f"<p>Of {counted(moved.images, 'image')}, {self._numbers.value(moved.y_kept)} keep their label, "
            f"{self._numbers.value(moved.a_reached)} reach the attribute asked for, and {self._shown(moved.both)} do "
            "both.</p>"
        )

    def _above(self, metric: MetricValue, bound: float | None, above: tuple[str, Colour], otherwise: str) -> str:
        if metric.low is None or bound is None:
            return _no_verdict(metric)
        return chip(*above) if metric.low > bound else chip(otherwise, "good")


def _no_verdict(metric: MetricValue) -> str:
    return chip("not measured" if metric.value is None else "no interval", "none")


def _mean(values: Shares) -> float | None:
    known = [value for row in values for value in row if value is not None]
    return sum(known) / len(known) if known else None
