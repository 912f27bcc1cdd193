"""The split law on the whole of CelebA's annotations: the numbers that the literature publishes."""

from __future__ import annotations

import gzip
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from benchmark.tasks.law import SplitLaw, split
from benchmark.tasks.manifest import AUDIT, TEST, TRAIN, VALIDATION, Listing

LAW = SplitLaw(
    task="celeba-blond", split_version=1, n_classes=2, n_attributes=2, aligned=(1, 0), attribute="observed",
    audit_share=Fraction(0), test_share=None, validation_share=None,
)  # fmt: skip
PARTITIONS = {"0": TRAIN, "1": VALIDATION, "2": TEST}


@pytest.fixture(scope="module")
def celeba(real_data: Path) -> Listing:
    """Blond_Hair × Male of all 202,599 images."""
    with gzip.open(real_data / "celeba" / "list_attr_celeba.txt.gz", "rt") as file:
        lines = file.read().splitlines()
    names = lines[1].split()
    blond, male = names.index("Blond_Hair") + 1, names.index("Male") + 1
    rows = [line.split() for line in lines[2:]]
    with gzip.open(real_data / "celeba" / "list_eval_partition.txt.gz", "rt") as file:
        partition = dict(line.split() for line in file.read().splitlines())
    ids = tuple(row[0] for row in rows)
    y = np.array([row[blond] == "1" for row in rows], dtype=np.int64)
    a = np.array([row[male] == "1" for row in rows], dtype=np.int64)
    return Listing(ids, y, a, tuple(PARTITIONS[partition[i]] for i in ids))


def test_native_gives_the_published_group_counts(celeba: Listing) -> None:
    manifest = split(celeba, LAW, "native", 0)
    assert manifest.counts(TRAIN).tolist() == [[71_629, 66_874], [22_880, 1_387]]
    assert manifest.counts(VALIDATION).tolist() == [[8_535, 8_276], [2_874, 182]]
    assert manifest.counts(TEST).tolist() == [[9_767, 7_535], [2_480, 180]]


def test_a_bias_level_leaves_the_test_alone_and_keeps_its_share_exactly(celeba: Listing) -> None:
    at_95, at_99 = split(celeba, LAW, "0.95", 1), split(celeba, LAW, "0.99", 1)
    # Blond: 22,880 aligned need 1,204.2 conflicting at .95 and 231.1 at .99; not blond: 66,874 need 3,519.7 and 675.5.
    assert at_95.counts(TRAIN).tolist() == [[3_520, 66_874], [22_880, 1_204]]
    assert at_99.counts(TRAIN).tolist() == [[675, 66_874], [22_880, 231]]
    assert at_95.counts(TEST).tolist() == [[9_767, 7_535], [2_480, 180]]
    assert set(at_99.splits[TRAIN].ids) < set(at_95.splits[TRAIN].ids)


def test_an_audit_split_is_cut_from_every_training_group_first(celeba: Listing) -> None:
    law = SplitLaw(**{**LAW.__dict__, "audit_share": Fraction(5, 100)})
    manifest = split(celeba, law, "0.99", 0)
    # 5 % of 71,629, 66,874, 22,880 and 1,387, rounded half up.
    assert manifest.counts(AUDIT).tolist() == [[3_581, 3_344], [1_144, 69]]
    assert not set(manifest.splits[AUDIT].ids) & set(manifest.splits[TRAIN].ids)
