"""The files of a launch's report in a work folder, and where they are."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

from hpt_dist.cli import console
from hpt_dist.launch import exhibited
from hpt_dist.report.report import Report
from hpt_dist.store import Store, files
from hpt_dist.store.paths import report_folder
from hpt_dist.trial.records import Finished, Launch

_PAGE, _DATA = "report.html", "report.json"


def write(
    report: Report, record: Launch, done: Sequence[Finished], store: Store, work: Path
) -> None:
    """Write a launch's report, and print where its page is."""
    folder = report_folder(work, store.uri, record.recipe)
    try:
        with files.in_work_folder(work):
            report.write(folder, exhibited.exhibits(store, record, done, report.judged))
        console.print_line(f"report: {folder / _PAGE}")
    except files.WorkFolderError as error:
        # The results are in the store, and so is all that the report is made of.
        console.print_note(f"the report is not written: {error}")


def bring_up_to_date(
    report: Report, record: Launch, done: Sequence[Finished], store: Store
) -> None:
    """Print where the page of a recipe's last launch is; write it anew where it says other things.

    Nothing happens where the launch's work folder is not on this machine, or is not this user's.
    """
    work = Path(record.work)
    if not (work.is_dir() and os.access(work, os.W_OK)):
        return
    folder = report_folder(work, store.uri, record.recipe)
    try:
        with files.in_work_folder(work):
            if not (folder / _PAGE).is_file() or _said(folder) != report.as_json():
                report.write(folder, exhibited.exhibits(store, record, done, report.judged))
        console.print_note(f"report: {folder / _PAGE}")
    except files.WorkFolderError as error:
        console.print_note(f"the report is not written: {error}")


def _said(folder: Path) -> object:
    """Return what the report that is there says; None where it cannot be read."""
    try:
        return json.loads((folder / _DATA).read_bytes())
    except (FileNotFoundError, ValueError):
        return None
