"""What is printed: texts of other people's files can change nothing on a terminal."""

import io
import logging
import os
import subprocess
import sys

import pytest
from rich.console import Console

from hpt_dist.cli import console
from hpt_dist.processes import output

NASTY = "\x1b]0;title\x07\u202e[bold]:smile:\ud800 漢😀"
SHOWN = "\\x1b]0;title\\x07\\u202e[bold]:smile:\\ud800 漢😀"


@pytest.fixture(params=[True, False], ids=["terminal", "file"])
def screen(request, monkeypatch):
    file = io.StringIO()
    made = Console(file=file, force_terminal=request.param, width=200, emoji=False, highlight=False)
    monkeypatch.setattr(console, "out", made)
    monkeypatch.setattr(console, "err", made)
    return file


def test_every_way_to_print_escapes(screen):
    console.print_line(NASTY)
    console.print_note(NASTY)
    console.print_error(NASTY)
    console.print_table(("a", "b"), [(NASTY, "1"), ("2", NASTY)])
    assert screen.getvalue().count(SHOWN) == 5
    assert "\x1b]" not in screen.getvalue()
    assert "\u202e" not in screen.getvalue()


def test_progress_escapes(screen, monkeypatch):
    monkeypatch.setattr(console, "PLAIN_EVERY_S", -1.0)
    with console.counting(NASTY) as count:
        count(0, 2)
        count(1, 2)
    assert SHOWN in screen.getvalue()
    assert "\x1b]" not in screen.getvalue()


def test_line_ends_of_a_message_stay(screen):
    console.print_line("what\n  do: this")
    assert screen.getvalue() == "what\n  do: this\n"


def test_log_records_escape(monkeypatch):
    file = io.StringIO()
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    output.log_lines(logging.WARNING, file, "%(levelname)s %(message)s")
    logging.getLogger("hpt_dist.x").warning("%s is damaged", NASTY)
    assert file.getvalue() == f"WARNING {SHOWN} is damaged\n"


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_any_text_is_printed_on_any_terminal(tmp_path, encoding):
    recipe = tmp_path / "r.yaml"
    recipe.write_text('name: x\n"漢😀é": 1\n"\\u202e": 2\n', encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "hpt_dist", "plan", str(recipe), "--set", b"\xff=1"],
        env={**os.environ, "PYTHONIOENCODING": encoding},
        capture_output=True,
        check=False,
    )
    text = (done.stdout + done.stderr).decode(encoding)
    assert done.returncode == 2, text
    assert "\\u202e" in text
    assert "\\udcff=1" in text
    assert "漢😀é".encode(encoding, "backslashreplace").decode(encoding) in text


CTRL_C_AT_AN_IMPORT = """
import runpy, sys

class CtrlC:
    def find_spec(self, name, *_):
        if name == "typer":
            raise KeyboardInterrupt

sys.meta_path.insert(0, CtrlC())
runpy.run_module("hpt_dist", run_name="__main__")
"""


def test_ctrl_c_before_a_command_has_begun_is_one_word():
    command = [sys.executable, "-c", CTRL_C_AT_AN_IMPORT]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "interrupted\n")
