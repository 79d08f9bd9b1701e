"""Arguments and options that several commands take."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hpt_dist.cli import completion
from hpt_dist.store.paths import DEFAULT_STORE as DEFAULT_STORE

RecipeArgument = Annotated[
    Path,
    typer.Argument(
        metavar="RECIPE",
        help="A YAML file, or the name of a recipe in the package.",
        autocompletion=completion.recipes,
    ),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY.PATH=VALUE",
        help="Change a setting; may be repeated. A number is a place in a list: report.0.title.",
    ),
]
RunArgument = Annotated[
    str,
    typer.Argument(
        metavar="RUN",
        help="A launch's id, or a recipe's name or file; by default the last launch. With a file, "
        "the recipe's own store is read.",
        autocompletion=completion.runs,
    ),
]
StoreOption = Annotated[
    str,
    typer.Option(
        "--store",
        envvar="HPT_STORE",
        metavar="STORE",
        help="The store: a folder or s3://BUCKET/PREFIX.",
    ),
]
# Of commands that may be given a recipe, which names a store of its own.
RecipeStoreOption = Annotated[
    str,
    typer.Option(
        "--store",
        metavar="STORE",
        help="The store: a folder or s3://BUCKET/PREFIX; by default the recipe's own where its "
        "file is given, else HPT_STORE, else ./hpt-store.",
    ),
]
TrackingOption = Annotated[
    str,
    typer.Option(
        "--tracking-uri",
        metavar="URI",
        envvar="MLFLOW_TRACKING_URI",
        help="MLflow's address; by default a SQLite file in the work folder.",
    ),
]
WorkOption = Annotated[
    str,
    typer.Option(
        "--work",
        metavar="FOLDER",
        envvar="HPT_WORK",
        help="Folder for logs and local metrics; by default `work` in the store's folder, or "
        "./hpt-work if the store is on S3.",
    ),
]
JsonOption = Annotated[
    bool,
    typer.Option("--json", help="Print one JSON document on standard output, and no other text."),
]
RanksOption = Annotated[
    int | None,
    typer.Option(
        help="Number of processes (one per GPU) that train each trial together; on a cluster "
        "instead of the recipe's `resources`.",
        min=1,
    ),
]
FreshOption = Annotated[
    bool,
    typer.Option(
        "--fresh",
        help="Start each trial as a new interpreter; by default trials are forked from a process "
        "that has imported torch already, which saves seconds and gives the same results.",
    ),
]
SourceArgument = Annotated[
    list[str],
    typer.Argument(
        metavar="SOURCE",
        help="A folder, a list, an annotation file (docs/own_images.md), tars "
        "(docs/webdataset.md), or a dataset's name (docs/datasets.md), such as openmoji/line, "
        "fashion-mnist, tuxpaint, openclipart or domainnet/real.",
    ),
]
RootOption = Annotated[
    Path | None,
    typer.Option(
        metavar="FOLDER",
        help="Folder of a named dataset; for a list, the folder its paths start at.",
    ),
]
LayoutOption = Annotated[
    str,
    typer.Option(
        metavar="LAYOUT",
        help="What the top folders are, where that is not plain: classes or splits; flat: they "
        "mean nothing, and all images are without labels.",
    ),
]
ColumnsOption = Annotated[
    str,
    typer.Option(
        metavar="ROLE=NAME,...",
        help="Which columns of a list hold the path (or image), label, labels, split and group, "
        "where their names do not say it; label= reads no labels.",
    ),
]
GroupOption = Annotated[
    str | None,
    typer.Option(
        metavar="REGEX",
        help="Keep images in one split whose paths match alike in the pattern's first group, such "
        "as those of a patient; '' ignores a list's column group.",
    ),
]
ImageOption = Annotated[
    str,
    typer.Option(
        metavar="FIELD", help="Of tars: the field that holds the image, where there are several."
    ),
]
LabelOption = Annotated[
    str,
    typer.Option(
        metavar="FIELD",
        help="Of tars: the field that holds the label: cls, txt, json:NAME; none for no labels.",
    ),
]
ClassesOption = Annotated[
    str,
    typer.Option(
        metavar="FILE",
        help="Of tars: names of the classes, in the order of their numbers: a line each, or .json.",
    ),
]
SplitOption = Annotated[
    str,
    typer.Option(
        metavar="SPLIT",
        help="Of tars: the split of all images, where no names say it; hash: 70 % train, 15 % val, "
        "15 % test by each image's key.",
    ),
]
BoxesOption = Annotated[
    bool,
    typer.Option(
        "--boxes",
        help="Store the objects of COCO or Pascal VOC to detect them: boxes, and masks where every "
        "object has one.",
    ),
]
ResizeOption = Annotated[
    int | None,
    typer.Option(
        help="Shrink larger images to this short side, in pixels. JPEG stays JPEG (quality 90 "
        "unless --quality is given), PNG stays PNG unless --quality is given.",
        min=1,
    ),
]
QualityOption = Annotated[
    int | None,
    typer.Option(help="Write every image, PNG too, as JPEG of this quality.", min=1, max=100),
]
MaxBadOption = Annotated[
    int, typer.Option(help="Number of unreadable or damaged images that may be left out.", min=0)
]
DestinationArgument = Annotated[
    str, typer.Argument(metavar="DEST", help="The dataset to write: STORE/datasets/NAME.")
]
JobsOption = Annotated[
    int | None, typer.Option(help="Number of Slurm jobs that share the work.", min=1)
]
ReplaceOption = Annotated[
    bool,
    typer.Option(
        "--replace",
        help="Replace the dataset that is there, if its images or options differ. It can be read "
        "until the new one is complete.",
    ),
]
WorkersOption = Annotated[
    int | None,
    typer.Option(help="Number of processes; by default one for each usable core.", min=1),
]
ScaleOption = Annotated[
    str,
    typer.Option(
        metavar="LOW..HIGH",
        help="Pixel values of images of more than 8 bits that become black and white: 0..4095 for "
        "12 bits; full: 0..65535, also if the images use only a small part of it.",
    ),
]
LeaveOutOption = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Leave out the images that `hpt-dist data leaks --write-list FILE` listed.",
    ),
]
ClusterOption = Annotated[
    str,
    typer.Option(
        metavar="PROFILE",
        help="Profile of a Slurm cluster to work on: a YAML file, or a name in the package.",
    ),
]
WhereOption = Annotated[
    str,
    typer.Option(
        metavar="WHERE",
        help="local: in processes on this machine; inline: in this process; else the profile "
        "of a Slurm cluster: a YAML file, or the name of a profile in the package.",
    ),
]
OnlyOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="STAGE",
        help="Run only this stage and the stages that it starts from; may be repeated.",
    ),
]
CoresOption = Annotated[
    int | None,
    typer.Option(
        help="Number of CPU cores that trials share; by default all.",
        min=1,
        envvar="HPT_CORES",
    ),
]
BaseOption = Annotated[
    list[str] | None,
    typer.Option(
        "--base",
        metavar="WEIGHTS",
        help="Weights to start from, as a recipe names them, or NETWORK=WEIGHTS for a file; may be "
        "repeated, and val decides. By default package/efficientnet-lite0.",
    ),
]
FirstOption = Annotated[
    list[str] | None,
    typer.Option(
        "--source",
        metavar="DATASET",
        help="A dataset of the store to pretrain on first; may be repeated, and the nearest one is "
        "taken.",
    ),
]
HoursOption = Annotated[
    float | None,
    typer.Option(help="Hours that all of the recipe may take on this machine; it is cut to fit."),
]
LookSecondsOption = Annotated[
    float,
    typer.Option(help="Seconds that looking may take; each part looks at a little in any case."),
]
