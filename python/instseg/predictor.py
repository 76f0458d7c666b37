# SPDX-License-Identifier: Apache-2.0
"""Inference on images."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from typing import overload

import torch

from . import _C
from .image import ImageLike, to_tensor
from .model import Model
from .results import Instances


def _positive(name: str, value: int | None) -> int:
    if value is not None and value <= 0:
        raise ValueError(f"[Predictor] {name} must be positive, got {value}; None keeps the model's own")
    return value or 0


class Predictor:
    """Runs one model on images; weights are folded and packed once, here.

    `source` is a model file or a Model, whose current weights are taken. `precision` is "fp32", "bf16" or
    "fp16" (GPU only); `score_threshold`, `max_detections` and the sides in pixels default to the model's own.
    Raises OSError or ValueError for a file that is not a valid model. Calls from several threads run one
    after the other.
    """

    def __init__(
        self,
        source: str | os.PathLike[str] | Model,
        *,
        device: str | torch.device = "cpu",
        precision: str = "fp32",
        score_threshold: float | None = None,
        max_detections: int | None = None,
        short_side: int | None = None,
        long_side: int | None = None,
    ) -> None:
        if score_threshold is not None and not 0 <= score_threshold <= 1:
            raise ValueError(f"[Predictor] score_threshold must be within 0..1, got {score_threshold}")
        options = _C.PredictorOptions(
            device=str(device),
            precision=precision,
            score_threshold=-1.0 if score_threshold is None else score_threshold,
            max_detections=_positive("max_detections", max_detections),
            short_side=_positive("short_side", short_side),
            long_side=_positive("long_side", long_side),
        )
        self._lock = threading.Lock()
        if isinstance(source, Model):
            self._core = _C.Predictor(source.core, options)
        elif isinstance(source, (str, os.PathLike)):
            self._core = _C.Predictor(os.fspath(source), options)
        else:
            raise TypeError(f"[Predictor] source must be a path or a Model, got {type(source).__name__}")

    @overload
    def __call__(self, images: list[ImageLike] | tuple[ImageLike, ...]) -> list[Instances]: ...
    @overload
    def __call__(self, images: ImageLike) -> Instances: ...

    def __call__(self, images: ImageLike | Sequence[ImageLike]) -> Instances | list[Instances]:
        """Detections of one image, or of each image of a list (one padded forward pass).

        An image is a path, an RGB uint8 [H, W, 3] array or tensor, or a PIL image.
        """
        if not isinstance(images, (list, tuple)):
            return self._run([to_tensor(images)])[0]  # type: ignore[arg-type]
        return self._run([to_tensor(image) for image in images]) if images else []

    def _run(self, images: list[torch.Tensor]) -> list[Instances]:
        with self._lock:
            results = self._core(images)
        config = self.config
        return [Instances.from_core(result, config) for result in results]

    @property
    def config(self) -> _C.ModelConfig:
        """A copy of the model's configuration."""
        return self._core.config

    @property
    def class_names(self) -> list[str]:
        """Name of each label; empty when unknown."""
        return self.config.class_names

    @property
    def last_times(self) -> dict[str, float]:
        """Milliseconds of the last call: preprocess, network, postprocess."""
        return self._core.last_times

    @property
    def warnings(self) -> list[str]:
        """What was odd about the model file, e.g. tensors with NaN."""
        return self._core.warnings

    def __repr__(self) -> str:
        config = self.config
        return f"<Predictor {config.family} {config.backbone.name}, {config.num_classes} classes>"
