# SPDX-License-Identifier: Apache-2.0
"""``instseg convert``."""

from __future__ import annotations

from typing import Annotated

import typer

from instseg.cli._common import check_file, check_output_file, examples, print_warning, to_json

EXAMPLES = examples(
    "instseg convert FCOS_R_50_1x.pth fcos_r50.safetensors --preset fcos_R_50_1x",
    "instseg convert FCOS_RT_MS_R_50_4x_syncbn.pth fcos_rt.safetensors",
    "instseg convert fcos_resnet50_fpn_coco-99b0c9b7.pth torchvision_fcos.safetensors --json",
)


def convert(
    source: Annotated[str, typer.Argument(metavar="FILE", help="A checkpoint of another code base.")],
    output: Annotated[str, typer.Argument(metavar="OUT", help="The model file to write (.safetensors).")],
    preset: Annotated[
        str | None,
        typer.Option(
            "--preset",
            metavar="NAME",
            help="The checkpoint's model, where its content fits several: the error names them.",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Turn a published checkpoint into a model file. Nothing in the checkpoint is executed."""
    from instseg.importers import convert as run_conversion

    check_file(source, "checkpoint")
    check_output_file(output, "OUT")
    model, report = run_conversion(source, preset=preset)
    model.save(output)
    if not report.ok:
        print_warning(report.problem())
    if as_json:
        typer.echo(to_json(report.to_dict()))
        return
    typer.echo(str(report))
    typer.echo(f"wrote {output}")
