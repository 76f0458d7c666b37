# SPDX-License-Identifier: Apache-2.0
"""``instseg info``."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from instseg.cli._common import check_file, examples, print_warning, to_json

EXAMPLES = examples("instseg info", "instseg info model.safetensors", "instseg info model.safetensors --json")


def info(
    model: Annotated[
        str | None, typer.Argument(metavar="MODEL", help="A model file.", show_default=False)
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Say what this build can do, or what is inside a model file."""
    document = build_document() if model is None else model_document(model)
    if as_json:
        typer.echo(to_json(document))
    else:
        typer.echo(format_build(document) if model is None else format_model(document))


def build_document() -> dict[str, Any]:
    """What this build can do, as ``instseg.build_info()``, and the torch that runs it."""
    import torch

    import instseg

    return {**instseg.build_info(), "torch_running": torch.__version__}


def model_document(path: str) -> dict[str, Any]:
    """Everything a model file says about its model."""
    import instseg
    from instseg import _C

    check_file(path, "model file")
    content = _C.read_model_file(path)
    for warning in content.warnings:
        print_warning(warning)
    model = instseg.Model(content.config)
    return {
        "file": path,
        "config": content.config.to_dict(),
        "class_names": list(content.config.class_names),
        "parameters": sum(p.numel() for p in model.parameters()),
        "trainable_parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "tensors": len(content.tensors),
        "warnings": list(content.warnings),
        "summary": json.loads(content.summary or "{}"),
    }


def format_build(document: dict[str, Any]) -> str:
    """The build information as aligned lines."""
    cuda = "none in this build"
    if document["cuda_kernels"]:
        cuda = "compiled for " + ", ".join(f"sm_{arch}" for arch in document["cuda_archs"])
    rows = [
        ("instseg", document["version"]),
        ("torch", f"{document['torch_running']} (built against {document['torch_version']})"),
        ("compiler", document["compiler"]),
        ("CUDA kernels", cuda),
        ("usable GPU", "yes" if document["cuda_available"] else "no"),
        ("image decoders", ", ".join(document["image_decoders"]) or "none"),
        ("instruction set", document["cpu_capability"]),
        ("native bfloat16", "yes" if document["cpu_bf16"] else "no"),
    ]
    return "\n".join(f"{name:<16}{value}" for name, value in rows)


def format_model(document: dict[str, Any]) -> str:
    """A model document as readable text: the main facts, then the config field by field."""
    config = document["config"]
    rows = [
        ("file", document["file"]),
        ("family", config["family"]),
        ("backbone", config["backbone"]["name"]),
        ("parameters", f"{document['parameters']:,} ({document['trainable_parameters']:,} trainable)"),
        ("classes", f"{config['num_classes']}: {format_names(document['class_names'])}"),
    ]
    lines = [f"{name:<12}{value}" for name, value in rows]
    lines.append("summary" if document["summary"] else "summary     none")
    lines += [f"  {line}" for line in flatten(document["summary"])]
    lines.append("config")
    shown = {key: value for key, value in config.items() if key not in ("class_names", "category_ids")}
    lines += [f"  {line}" for line in flatten(shown)]
    return "\n".join(lines)


def format_names(names: list[str], limit: int = 12) -> str:
    """At most ``limit`` class names on one line."""
    if not names:
        return "unnamed"
    more = f", ... ({len(names) - limit} more)" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


def flatten(document: dict[str, Any], prefix: str = "") -> list[str]:
    """``key.subkey: value`` for every leaf, in order."""
    lines: list[str] = []
    for key, value in document.items():
        if isinstance(value, dict):
            lines += flatten(value, f"{prefix}{key}.")
        else:
            lines.append(f"{prefix}{key}: {json.dumps(value, ensure_ascii=False)}")
    return lines
