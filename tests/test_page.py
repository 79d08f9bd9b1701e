"""Pages in Markdown and in HTML."""

from __future__ import annotations

import re

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
