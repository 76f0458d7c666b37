# SPDX-License-Identifier: Apache-2.0
"""``instseg data convert``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from instseg.cli._common import (
    check_file,
    check_folder,
    check_output_file,
    count,
    examples,
    progress_bar,
    to_json,
)

LVIS_EXAMPLES = examples("instseg data convert lvis lvis_v1_val.json lvis_val.json")
CITYSCAPES_EXAMPLES = examples(
    "instseg data convert cityscapes cityscapes/ cityscapes_train.json --split train",
    "instseg data check cityscapes_train.json cityscapes/",
)

app = typer.Typer(
    help="Bring annotations of other data sets into COCO form.",
    no_args_is_help=True,
    rich_markup_mode=None,
    epilog=examples(
        "instseg data convert lvis lvis_v1_val.json lvis_val.json",
        "instseg data convert cityscapes cityscapes/ cityscapes_train.json --split train",
    ),
)


@app.command("lvis", epilog=LVIS_EXAMPLES)
def lvis(
    source: Annotated[str, typer.Argument(metavar="SRC", help="LVIS file.")],
    output: Annotated[str, typer.Argument(metavar="OUT", help="COCO file to write.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Turn an LVIS file into a COCO file; images are named like train2017/000000000009.jpg."""
    from instseg.data import convert_lvis

    check_file(source, "LVIS file")
    check_output_file(output, "OUT")
    report = convert_lvis(source, output)
    typer.echo(to_json(report) if as_json else _lvis_text(output, report))


def _lvis_text(output: str, report: dict[str, Any]) -> str:
    frequency = ", ".join(f"{number} {name}" for name, number in report["frequency"].items())
    text = (
        f"{output}: {count(report['images'], 'image')}, {count(report['annotations'], 'annotation')}, "
        f"{report['categories']} categories (frequency: {frequency}); {report['not_exhaustive']} images with "
        f"classes that are not completely annotated, which COCO's AP does not know of"
    )
    dropped = ", ".join(f"{number} {kind}" for kind, number in report["dropped"].items())
    return text + (f"\nleft out: {dropped}" if dropped else "")


@app.command("cityscapes", epilog=CITYSCAPES_EXAMPLES)
def cityscapes(
    root: Annotated[
        str,
        typer.Argument(metavar="ROOT", help="Folder that holds gtFine and leftImg8bit; also of the images."),
    ],
    output: Annotated[str, typer.Argument(metavar="OUT", help="COCO file to write.")],
    split: Annotated[str, typer.Option("--split", help="train or val.")] = "train",
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Turn a split of Cityscapes' fine annotations into a COCO file of its eight classes with instances."""
    from instseg.data import convert_cityscapes

    check_folder(root, "folder")
    check_output_file(output, "OUT")
    with progress_bar("files") as bar:
        task = bar.add_task("", total=None)
        report = convert_cityscapes(
            root,
            output,
            split,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    if as_json:
        typer.echo(to_json(report))
        return
    typer.echo(
        f"{output}: {count(report['images'], 'image')}, {count(report['annotations'], 'annotation')} "
        f"({count(report['crowds'], 'crowd')}), {report['categories']} categories; images in {Path(root)}"
    )
