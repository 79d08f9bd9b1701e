"""Pages in Markdown and in HTML."""

from __future__ import annotations

import re
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpt_dist import page
from hpt_dist.page import Grid, Heading, Items, Paragraph, Picture, Sheet

NASTY = '<b>&"'


@given(st.lists(st.lists(st.text("ab|é", max_size=9), min_size=3, max_size=3), min_size=1))
def test_tables_are_aligned(rows: list[list[str]]) -> None:
    lines = page.table_lines(["one", "two", "three"], rows)
    assert len(set(map(len, lines))) == 1
    back = [re.split(r"(?<!\\)\|", line)[1:-1] for line in lines]
    assert all(len(cells) == 3 for cells in back)
    assert [[c.strip().replace("\\|", "|") for c in cells] for cells in back[2:]] == [
        [c.strip() for c in row] for row in rows
    ]


def test_every_text_of_a_page_is_escaped() -> None:
    picture = Picture(b"png", NASTY, NASTY)
    texts = [Heading(1, NASTY), Paragraph(NASTY), Items([NASTY]), Grid([NASTY], [[NASTY]])]
    html = page.as_html(NASTY, [*texts, picture, Sheet([picture], 10)])
    assert "<b>" not in html
    assert '&"' not in html
    assert html.count("&lt;b&gt;&amp;&quot;") == 1 + 5 + 2 * 4


def test_a_page_holds_its_pictures_and_markdown_leaves_them_out() -> None:
    plot, small = Picture(b"plot", "values"), [Picture(b"a", "one", "a.jpg"), Picture(b"b", "two")]
    blocks = [Heading(1, "title"), plot, Sheet(small, 10)]
    html = page.as_html("title", blocks)
    assert re.findall(r'src="([^"]*)" alt="([^"]*)"', html) == [
        (f"data:image/png;base64,{data}", alt)
        for data, alt in [("cGxvdA==", "values"), ("YQ==", "a.jpg"), ("Yg==", "two")]
    ]
    assert re.findall("<figcaption>(.*)</figcaption>", html) == ["values", "one", "two"]
    assert re.findall('title="([^"]*)"', html) == ["a.jpg&#10;one"]
    assert page.markdown(blocks) == "# title\n"


@pytest.mark.parametrize(
    "text",
    [
        "two\nlines\tand a tab",
        "Größe, naïve, Ελλάδα, 漢字\u3000仮名, עברית, हिन्दी, क्\u200dष, می\u200cخواهم",
        "😀 👨\u200d👩\u200d👧 ❤\ufe0f 👍🏽 🇪🇺 1\ufe0f\u20e3",
        "🏴\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f",
        "no\u00a0break, C:\\x1b",
    ],
)
def test_what_people_write_stays_as_it_is(text: str) -> None:
    assert page.printable(text) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[31mred\x07\r", "\\x1b[31mred\\x07\\r"),
        ("\x9b31m\x7f\x00", "\\x9b31m\\x7f\\x00"),
        ("gnp.exe\u202e", "gnp.exe\\u202e"),
        ("\u2066a\u2069\u200b\ufeff\u00ad", "\\u2066a\\u2069\\u200b\\ufeff\\xad"),
        ("a\u200db", "a\\u200db"),
        ("a\U000e0067", "a\\U000e0067"),
        ("\ud800\udcff", "\\ud800\\udcff"),
        ("a\u2028b\uffff", "a\\u2028b\\uffff"),
    ],
)
def test_what_a_terminal_obeys_or_nobody_sees_is_escaped(text: str, shown: str) -> None:
    assert page.printable(text) == shown


ANY_TEXT = st.text(st.characters(), max_size=30)


@given(ANY_TEXT)
def test_any_text_is_printable_and_can_be_written(text: str) -> None:
    shown = page.printable(text)
    assert page.printable(shown) == shown
    shown.encode()
    kinds = {unicodedata.category(one) for one in shown} - {"Cf"}
    assert not {one for one in shown if unicodedata.category(one) == "Cc"} - {"\n", "\t"}
    assert not kinds & {"Cs", "Zl", "Zp"}
    blocks = [Heading(1, text), Paragraph(text), Items([text]), Grid([text], [[text]])]
    assert page.printable(page.markdown(blocks)) == page.markdown(blocks)
    page.as_html(text, [*blocks, Picture(b"", text, text)]).encode()
