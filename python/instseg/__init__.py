# SPDX-License-Identifier: Apache-2.0
"""Single-shot instance segmentation: one C++ core, trained from Python, deployed natively."""

from __future__ import annotations

import importlib
import importlib.util
import mmap
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

_SUBMODULES = ("cli", "data", "evaluation", "importers", "ops", "recipe", "training")


def _built_for() -> str | None:
    """The torch version compiled into the extension, read from its file: loading the wrong one can crash."""
    spec = importlib.util.find_spec("instseg._C")
    if spec is None or spec.origin is None:
        raise ImportError(
            "instseg: the C++ extension instseg._C is not there. Install the package "
            "(pip install --no-build-isolation .) instead of importing it from its source directory."
        )
    with open(spec.origin, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        tag = re.search(rb"instseg-built-for-torch=([0-9.]+);", content)
        return tag[1].decode() if tag else None


def _unusable(built: str | None, reason: str) -> ImportError:
    return ImportError(
        f"instseg: {reason} (built for torch {built or 'unknown'}, torch {torch.__version__} is installed). "
        "Rebuild it against this torch: pip install --no-build-isolation --force-reinstall --no-deps ."
        + (f" Or install torch {built}." if built else "")
    )


_built = _built_for()
if _built is not None and _built.split(".")[:2] != str(torch.__version__).split(".")[:2]:
    raise _unusable(_built, "the C++ extension does not fit this torch")
try:
    from . import _C
except ImportError as error:
    raise _unusable(_built, f"the C++ extension does not load: {error}") from error

from ._api import convert, create, load  # noqa: E402
from ._C import (  # noqa: E402
    BackboneConfig,
    BlendMaskConfig,
    BoxInstConfig,
    CondInstConfig,
    HeadConfig,
    ImageBatch,
    InputConfig,
    LossConfig,
    Masks,
    MaskTargets,
    ModelConfig,
    NeckConfig,
    PostConfig,
    Preset,
    Rle,
    SoloConfig,
    TargetConfig,
    build_info,
    find_preset,
    presets,
)
from .image import read_image, write_image  # noqa: E402
from .model import Model  # noqa: E402
from .model_files import shipped_model, shipped_models  # noqa: E402
from .predictor import Predictor  # noqa: E402
from .results import Instances  # noqa: E402

if TYPE_CHECKING:
    from . import ops as ops

__all__ = [
    "BackboneConfig",
    "BlendMaskConfig",
    "BoxInstConfig",
    "CondInstConfig",
    "HeadConfig",
    "ImageBatch",
    "InputConfig",
    "Instances",
    "LossConfig",
    "MaskTargets",
    "Masks",
    "Model",
    "ModelConfig",
    "NeckConfig",
    "PostConfig",
    "Predictor",
    "Preset",
    "Rle",
    "SoloConfig",
    "TargetConfig",
    "build_info",
    "cmake_prefix_path",
    "convert",
    "create",
    "find_preset",
    "load",
    "presets",
    "read_image",
    "shipped_model",
    "shipped_models",
    "write_image",
]

#: Pass as -DCMAKE_PREFIX_PATH so that find_package(instseg) finds the C++ library of this installation.
cmake_prefix_path = str(Path(_C.__file__).parent)


def __getattr__(name: str) -> Any:
    if name in _SUBMODULES:
        return importlib.import_module(f"instseg.{name}")
    if name == "__version__":
        return build_info()["version"]
    raise AttributeError(f"module 'instseg' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted({*globals(), *_SUBMODULES, "__version__"})
