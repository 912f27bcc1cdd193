"""Strings of strangers are shown, not interpreted."""

from __future__ import annotations

import pytest

from leaderboard.text import safe


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("acme/copy-augment@1", "acme/copy-augment@1"),
        ("real_loss=group-dro, share=0.5", "real_loss=group-dro, share=0.5"),
        ("a|b", "a&#124;b"),
        ("one\ntwo\r\n three\tfour", "one two three four"),
        ("<script>alert(1)</script>", "&#60;script&#62;alert(1)&#60;/script&#62;"),
        ("&lt;b&gt;", "&#38;lt;b&#38;gt;"),
        ("![x](y)", "&#33;&#91;x&#93;(y)"),
        ("**bold** _so_", "&#42;&#42;bold&#42;&#42; &#95;so&#95;"),
        ("~~no~~ `code`", "&#126;&#126;no&#126;&#126; &#96;code&#96;"),
        ("see https://evil.example", "see https&#58;//evil.example"),
        ("www.evil.example", "www&#46;evil.example"),
        ("me@evil.example", "me&#64;evil.example"),
        ("back\\slash $x$ #1", "back&#92;slash &#36;x&#36; &#35;1"),
        ("right\u202eleft zero\u200bwidth nul\x00", "right\ufffdleft zero\ufffdwidth nul\ufffd"),
        ("lone \ud800", "lone \ufffd"),
        ("para\u2028graph", "para graph"),
        ("", ""),
    ],
)
def test_markup_becomes_text(text, shown):
    assert safe(text) == shown


def test_long_text_is_cut():
    assert safe("x" * 1_000_000, 10) == "x" * 9 + "…"
    assert safe("x" * 10, 10) == "x" * 10
