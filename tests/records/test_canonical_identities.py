"""Canonical JSON, digests and derived seeds: pinned, because every identity in every record depends on them."""

from __future__ import annotations

import hashlib
import math
from pathlib import Path

import pytest

from benchmark.records.canonical import (
    canonical_json,
    derive_seed,
    sha256_file,
    sha256_folder,
    sha256_of,
)


def test_canonical_json_sorts_keys_drops_spaces_and_keeps_utf8() -> None:
    value = {"b": [1, 2.5, None, True], "a": {"ρ": "0.95", "A": 1e-7}}
    assert canonical_json(value) == '{"a":{"A":1e-07,"ρ":"0.95"},"b":[1,2.5,null,true]}'.encode()


def test_equal_values_give_equal_bytes_whatever_their_order() -> None:
    assert canonical_json({"x": 1, "y": 2}) == canonical_json(dict(reversed(list({"x": 1, "y": 2}.items()))))
    assert canonical_json({"x": 1}) != canonical_json({"x": 1.0})
    assert canonical_json({"x": "1"}) != canonical_json({"x": 1})


def test_floats_are_written_so_that_they_read_back_exactly() -> None:
    assert canonical_json([0.1, 1 / 3, 1e300]) == b"[0.1,0.3333333333333333,1e+300]"


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_json_does_not_have_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        canonical_json({"x": [value]})


def test_what_json_cannot_hold_is_refused() -> None:
    with pytest.raises(TypeError):
        canonical_json({"x": {1, 2}})


def test_digests_are_plain_sha256(tmp_path: Path) -> None:
    assert sha256_of({"a": 1}) == hashlib.sha256(b'{"a":1}').hexdigest()
    (tmp_path / "f").write_bytes(b"abc" * 100_000)
    assert sha256_file(tmp_path / "f") == hashlib.sha256(b"abc" * 100_000).hexdigest()


def test_a_seed_is_pinned_for_ever() -> None:
    assert derive_seed(base=0, task="colorized-digits@1", method="erm@1", purpose="train/real") == 9102516769523548850
    text = b'{"base":0,"method":"erm@1","purpose":"train/real","task":"colorized-digits@1"}'
    assert int.from_bytes(hashlib.sha256(text).digest()[:8], "big") >> 1 == 9102516769523548850


def test_a_seed_depends_on_every_component_by_name_and_on_nothing_else() -> None:
    base = derive_seed(base=0, purpose="train")
    assert derive_seed(purpose="train", base=0) == base
    assert (
        len({base, derive_seed(base=1, purpose="train"), derive_seed(base=0, purpose="data"), derive_seed(base=0)}) == 4
    )
    assert derive_seed(base="0", purpose="train") != base


def test_seeds_fit_into_63_bits() -> None:
    seeds = [derive_seed(k=k) for k in range(2000)]
    assert min(seeds) >= 0
    assert max(seeds) < 2**63
    assert max(seeds) > 2**62


def test_a_folder_s_digest_covers_names_and_contents_and_not_what_is_hidden(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a.json").write_text("1")
    (tmp_path / "b.bin").write_text("2")
    base = sha256_folder(tmp_path)
    (tmp_path / ".cache").mkdir()
    (tmp_path / ".cache" / "x").write_text("3")
    assert sha256_folder(tmp_path) == base
    only = sha256_folder(tmp_path, (".json",))
    (tmp_path / "b.bin").write_text("4")
    assert sha256_folder(tmp_path) != base
    assert sha256_folder(tmp_path, (".json",)) == only
    (tmp_path / "sub" / "a.json").rename(tmp_path / "sub" / "c.json")
    assert sha256_folder(tmp_path, (".json",)) != only
