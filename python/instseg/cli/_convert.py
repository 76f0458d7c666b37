# SPDX-License-Identifier: Apache-2.0
"""``instseg convert``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from instseg.cli._common import (
    UsageError,
    check_file,
    check_output_file,
    examples,
    print_warning,
    to_json,
)

EXAMPLES = examples(
    "instseg convert FCOS_R_50_1x.pth fcos_r50.safetensors --preset fcos_R_50_1x",
    "instseg convert FCOS_RT_MS_R_50_4x_syncbn.pth fcos_rt.safetensors",
    "instseg convert fcos_resnet50_fpn_coco-99b0c9b7.pth torchvision_fcos.safetensors --json",
    "instseg convert model.safetensors small.safetensors --dtype float16",
)


def convert(
    source: Annotated[
        str, typer.Argument(metavar="FILE", help="A checkpoint of another code base, or a model file.")
    ],
    output: Annotated[str, typer.Argument(metavar="OUT", help="The model file to write (.safetensors).")],
    preset: Annotated[
        str | None,
        typer.Option(
            "--preset",
            metavar="NAME",
            help="The checkpoint's model, where its content fits several: the error names them.",
        ),
    ] = None,
    dtype: Annotated[
        str,
        typer.Option("--dtype", help="float32, or float16, which halves the file and rounds the parameters."),
    ] = "float32",
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Turn a published checkpoint into a model file, or write a model file with another --dtype.

    Nothing in the checkpoint is executed.
    """
    from instseg.importers import convert as run_conversion
    from instseg.model_files import is_model_file

    if dtype not in ("float32", "float16"):
        raise UsageError(f"--dtype must be float32 or float16, got '{dtype}'")
    check_file(source, "checkpoint")
    check_output_file(output, "OUT")
    if is_model_file(source):
        if preset is not None:
            raise UsageError(f"'{source}' is a model file and says what it is; leave --preset out")
        rewrite(source, output, dtype, as_json)
        return
    model, report = run_conversion(source, preset=preset)
    model.save(output, dtype=dtype)
    if not report.ok:
        print_warning(report.problem())
    if as_json:
        typer.echo(to_json(report.to_dict()))
        return
    typer.echo(str(report))
    typer.echo(f"wrote {output}")


def rewrite(source: str, output: str, dtype: str, as_json: bool) -> None:
    """Write the model of a model file, with its summary, in ``dtype``."""
    import instseg
    from instseg import _C

    content = _C.read_model_file(source)
    for warning in content.warnings:
        print_warning(warning)
    model = instseg.Model(content.config)
    _C.load_state(model.core, content.tensors)
    before = Path(source).stat().st_size
    model.save(output, json.loads(content.summary or "{}"), dtype=dtype)
    size = Path(output).stat().st_size
    if as_json:
        typer.echo(to_json({"source": source, "output": output, "dtype": dtype, "bytes": size}))
    else:
        typer.echo(f"wrote {output}, {dtype}, {size / 1e6:.1f} MB (was {before / 1e6:.1f})")
