"""What the board says in words: how to read it, how to reproduce a row, what the rules are."""

from __future__ import annotations

from benchmark.metrics.ranking import LEAST_SEEDS
from benchmark.records.kept import FULL_ROWS
from benchmark.tasks.law import DRAWS

HOW_TO_READ = f"""\
## How to read it

- **Row.** One configuration of one method (its version after the @) with one generator, over its seeds. Seed
  *i* uses draw *i* mod {len(DRAWS)} of the minority samples. A bare name is the default configuration;
  otherwise what differs is listed.
- **Tables.** Rows of one table are compared: same task, bias level, training recipe (backbone, weights, image
  size, steps) and selection rule. ρ is the share of bias-aligned images in each class of the training split;
  `balanced` is the control.
- **Track** is the most that a row used of the group labels: `none`, `val-select` (on validation, to select or
  tune), `val-train` (validation images enter training), `train`. A row is compared with rows of its own or a
  lower track only.
- **Rank** "2–4 of 5": there are 5 ranked rows of this row's or a lower track; in paired comparisons, corrected
  by Holm over all pairs of the five, 1 is significantly better and 1 significantly worse. So ranks of rows on
  different tracks count among different rows: a row on a high track is never a competitor of one on a lower
  track, and two rows may both be first. Intervals that overlap are ties as far as these runs can tell.
- **Δ to best** is the paired difference to the best of those rows, in points, with its 95 % interval; \\*
  where it is significant by Holm over every row against the best.
- **Not ranked** ("-", with the reason in the notes), below the ranked rows: fewer than {LEAST_SEEDS} seeds or not
  every draw, a split that is not pinned, oracles, and every row that maintainers have not run or replayed
  themselves.
- **Verification.** `maintained`: run by maintainers from a clean merged commit, isolated. `replayed`:
  retrained by a maintainer with a fresh seed, and the result lies where the submitted seeds predict it.
  `recomputed`: the metrics follow from the submitted predictions. `self-reported`: nobody has looked. Test
  labels are public, so arithmetic proves nothing about honesty: only the first two rank.
- **Numbers** are means over seeds with the 95 % t interval over seeds and draws (training); ends are not cut at
  0 or 100. Test-sampling intervals are another part of the uncertainty: each record holds them, and ranks take
  both into account. Percent and points have one decimal. `recovered_gap` is absent where there is
  no `real-oracle` row. All are computed from the stored predictions, but for what the tables of stages, of
  generated images and of generations say to be as recorded.
- **Generated images.** "y shown", "a shown": share of the kept images that show the label and the attribute
  asked for, as auditors see it, corrected with their confusion matrices (raw: uncorrected). "Memorised": share
  of images closer to a training image than all but 1 % of the training images are to each other; unseen real
  images would show about 1 %. FID and KID are distances from real images, on features that the table names; FID
  also falls with the number of images. Intervals are over seeds, which share pools and auditors; † marks one
  measurement that all seeds share, with its own interval. A run with several pools counts with their mean,
  weighted by kept images. Fine-tuning is timed also where the weights were at hand, sampling only where it was
  done; "auxiliary" are classifiers that cluster or filter images.
- **Cost** is the mean per run, in seconds. Fine-tuned weights and generated images are shared: the generator's
  time counts in the run that made them. Compute of generators is shown, not matched."""

DEMO_NOTE = (
    "Small, bundled data with a toy generator: these tables show that the machinery works and how to read it. What "
    "holds here need not hold on photographs, and no overall score counts them."
)

STAGES = (
    "Every stage at its last step; the last stage of a method is the ranked one. Copies of real images count as "
    "generated. Accuracies follow from predictions; of tasks with more than "
    f"{FULL_ROWS:,} test images, accepted runs keep the answers of the ranked stage alone, and the numbers of earlier "
    "stages are as recorded."
)
INFORMATION = (
    "As recorded by the runs, not recomputed from predictions: I(Y;A) and I(Y;(A,G)), in bits, are what the attribute "
    "A, and A with the source G (real or generated), tell about the label in the stage's training mixture."
)
PROBES = (
    "Also as recorded: the balanced accuracy with which linear probes read A, G, or both off the stage's frozen "
    "penultimate features{chance}."
)
GENERATED = (
    "Selection rule `last`, numbers per run. As recorded by the runs, not recomputed; only the accuracy of a "
    "classifier trained on generated images alone follows from predictions, where these are kept (see the stages)."
)

TRAJECTORIES = (
    "How to read it: a slope is the change in points per generation, from generation 0 (real data) on, with its 95 % "
    "interval over seeds and, of accuracies, test sampling; where the share of conflicting images or `acc_conflicting` "
    "falls, bias is **amplified**, where it rises, **reduced**, by Holm over this task's arms and levels; compare each "
    "arm with the null arms, a bootstrap of the data (`generator=identity`) and training again on real data "
    "(`generator=real`). Caveat: the share is that of the images that each generation added, and an auditor's from "
    "generation 1 on, corrected, as recorded and not recomputed; an error of the auditor's confusion matrix is common "
    "to all seeds and in no interval here: it scales the slope of a generator's share, and can set all later "
    "generations off against the exact generation 0."
)
POINTS = (
    "By generation, means over seeds. I(Y;A), the share of images that show their label (y shown) and FID are those of "
    "the images that the generation added, as recorded, and descriptive only; of real images I(Y;A) is exact."
)

EMPTY = """\
## No record yet

No finished run has been accepted. Make one with `genbias-bench evaluate --method erm`."""

HOW_TO_REPRODUCE = """\
## How to reproduce a row

    genbias-bench evaluate --task TASK --method METHOD --bias-level LEVEL --seed SEED \\
        [--recipe NAME] [--set NAME=VALUE] [--generator NAME]
    genbias-bench score RECORD

The first makes one run, that is one seed of a row. On the same device with the same number of threads it gives the same
answers; elsewhere the prediction interval over seeds decides. The second recomputes every metric of a record,
intervals included, from its stored predictions; where an accepted record keeps the arg-max of its ranked stage alone,
all of that stage but the calibration errors. `genbias-bench leaderboard build` makes this file from the accepted
records."""

RULES = {
    "last": "The checkpoint at the last step; validation data play no part.",
    "val-average": "The checkpoint of the last stage with the lowest mean cross-entropy on validation images.",
    "val-worst-group": (
        "The checkpoint of the last stage with the lowest cross-entropy of the worst populated validation group; every "
        "row is on track `val-select` at least."
    ),
}
