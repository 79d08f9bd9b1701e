"""hpt-dist doctor."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from hpt_dist.cli import console
from hpt_dist.cli.options import (
    DEFAULT_STORE,
    JsonOption,
    StoreOption,
    TrackingOption,
    WorkOption,
)
from hpt_dist.cli.requested import profile_file
from hpt_dist.doctor import cluster
from hpt_dist.doctor import services as checks
from hpt_dist.store import open_store
from hpt_dist.store.paths import default_tracking_uri, work_folder


def doctor(
    profile: Annotated[
        str,
        typer.Argument(metavar="PROFILE", help="The profile of a Slurm cluster to check too."),
    ] = "",
    store: StoreOption = DEFAULT_STORE,
    tracking_uri: TrackingOption = "",
    work: WorkOption = "",
    json_: JsonOption = False,
) -> None:
    """Check what a launch needs, and print a fix for each fault.

    It exits with 1 if there is a fault. With a profile it checks the cluster too, by a short job
    on one or two of its nodes.

    \b
    Examples:
      hpt-dist doctor --store s3://bucket/hpt
      hpt-dist doctor slurm/profiles/mine.yaml
    """
    if tracking_uri:
        os.environ["MLFLOW_TRACKING_URI"] = tracking_uri
    on_slurm, read = cluster.load(profile_file(profile)) if profile else (None, [])
    tracking_uri = os.environ.get("MLFLOW_TRACKING_URI", "")
    if not tracking_uri:
        tracking_uri = default_tracking_uri(work_folder(open_store(store), work))
    findings = [*read, *checks.examine(store, tracking_uri)]
    if on_slurm:
        findings += cluster.examine(on_slurm, store, work, console.print_note)
    if json_:
        console.print_json([vars(finding) for finding in findings])
    else:
        marks = {True: "ok", False: "FAIL", None: "note"}
        console.print_table(
            ("check", "", "finding"), [(f.name, marks[f.ok], f.says) for f in findings]
        )
        for finding in findings:
            if finding.ok is False:
                console.print_error(f"{finding.name}: {finding.fix}")
            elif finding.fix:
                console.print_note(f"{finding.name}: {finding.fix}")
    if any(finding.ok is False for finding in findings):
        raise typer.Exit(1)
