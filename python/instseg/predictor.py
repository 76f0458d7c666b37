# SPDX-License-Identifier: Apache-2.0
"""Inference on images."""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections.abc import Sequence
from typing import Any, Literal, TypeAlias, overload

import numpy as np
import torch

from . import _C
from .image import ImageLike, to_tensor
from .model import Model
from .model_files import shipped_model
from .results import Instances

#: (short, long) side in pixels, "model" for the model's own, or None for pixels as they are.
NetworkSize: TypeAlias = tuple[int, int] | Literal["model"] | None


def _positive(name: str, value: int | None) -> int:
    if value is not None and value <= 0:
        raise ValueError(f"[Predictor] {name} must be positive, got {value}; None keeps the model's own")
    return value or 0


def _check_score(value: object) -> None:
    if not isinstance(value, (int, float)) or not 0 <= value <= 1:
        raise ValueError(f"[Predictor] score_threshold must be within 0..1, got {value!r}")


def _is_count(value: Any) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool) and bool(value > 0)


def _pair(name: str, value: Any, meaning: str) -> tuple[int, int]:
    good = isinstance(value, (tuple, list)) and len(value) == 2
    if not good or not all(_is_count(side) for side in value):
        raise ValueError(
            f"[Predictor] {name} must be {meaning} in pixels, two positive integers, got {value!r}"
        )
    first, second = value
    return int(first), int(second)


def check_call(score_threshold: object, size: object, output_size: object, batch_size: object) -> None:
    """ValueError, in one line, for values that Predictor.__call__ does not take."""
    if score_threshold is not None:
        _check_score(score_threshold)
    if size is not None and not (isinstance(size, str) and size == "model"):
        short, long = _pair("size", size, "(short, long)")
        if short > long:
            raise ValueError(f"[Predictor] size must be (short, long) with short <= long, got {size!r}")
    if output_size is not None:
        _pair("output_size", output_size, "(height, width)")
    if batch_size is not None and not _is_count(batch_size):
        raise ValueError(f"[Predictor] batch_size must be a positive integer, got {batch_size!r}")


def _pixels(image: ImageLike, as_is: bool) -> torch.Tensor:
    floats = isinstance(image, torch.Tensor) and image.is_floating_point()
    return image if as_is and floats else to_tensor(image)  # type: ignore[return-value]


def _batch(pixels: list[torch.Tensor], config: _C.InputConfig, size: NetworkSize) -> _C.ImageBatch:
    """`pixels` as network input, resized unless `size` is None."""
    if size is None:
        return _C.make_batch(pixels, config)
    if size != "model":
        config.short_side, config.long_side = size
    return _C.preprocess(pixels, config)


def _rebuild(source: str | Model, options: dict[str, Any]) -> Predictor:
    return Predictor(source, **options)


class Predictor:
    """Runs one model on images; weights are folded and packed once, here.

    `source` is a model file or a Model, whose current weights are taken; without one it is the model of cell
    nuclei that comes with the package (instseg.shipped_model()). `precision` is "fp32", "bf16" or
    "fp16" (GPU only); `score_threshold`, `max_detections` and the sides in pixels default to the model's own.
    Raises OSError or ValueError for a file that is not a valid model. Calls from several threads run one
    after the other.
    """

    def __init__(
        self,
        source: str | os.PathLike[str] | Model | None = None,
        *,
        device: str | torch.device = "cpu",
        precision: str = "fp32",
        score_threshold: float | None = None,
        max_detections: int | None = None,
        short_side: int | None = None,
        long_side: int | None = None,
    ) -> None:
        if score_threshold is not None:
            _check_score(score_threshold)
        options = _C.PredictorOptions(
            device=str(device),
            precision=precision,
            score_threshold=-1.0 if score_threshold is None else score_threshold,
            max_detections=_positive("max_detections", max_detections),
            short_side=_positive("short_side", short_side),
            long_side=_positive("long_side", long_side),
        )
        if source is None:
            source = shipped_model()
        self._source = weakref.ref(source) if isinstance(source, Model) else source
        self._options = {
            "device": str(device),
            "precision": precision,
            "score_threshold": score_threshold,
            "max_detections": max_detections,
            "short_side": short_side,
            "long_side": long_side,
        }
        self._lock = threading.Lock()
        self._times: dict[str, float] = {}
        if isinstance(source, Model):
            self._core = _C.Predictor(source.core, options)
        elif isinstance(source, (str, os.PathLike)):
            self._core = _C.Predictor(os.fspath(source), options)
        else:
            raise TypeError(f"[Predictor] source must be a path or a Model, got {type(source).__name__}")

    @overload
    def __call__(
        self,
        images: list[ImageLike] | tuple[ImageLike, ...],
        *,
        score_threshold: float | None = ...,
        size: NetworkSize = ...,
        output_size: tuple[int, int] | None = ...,
        batch_size: int | None = ...,
    ) -> list[Instances]: ...
    @overload
    def __call__(
        self,
        images: ImageLike,
        *,
        score_threshold: float | None = ...,
        size: NetworkSize = ...,
        output_size: tuple[int, int] | None = ...,
        batch_size: int | None = ...,
    ) -> Instances: ...

    def __call__(
        self,
        images: ImageLike | Sequence[ImageLike],
        *,
        score_threshold: float | None = None,
        size: NetworkSize = "model",
        output_size: tuple[int, int] | None = None,
        batch_size: int | None = None,
    ) -> Instances | list[Instances]:
        """Detections of one image, or of each image of a list.

        images: a path, an RGB uint8 [H, W, 3] array or tensor, a PIL image, or a list of them.
        score_threshold: drops detections below it, further to the predictor's own.
        size: (short, long) limits of the image's sides in the network, in pixels; "model": the predictor's
        own; None: the pixels as they are, only normalised and padded (float32 tensors in 0..255 are then
        images, too).
        output_size: (height, width) whose coordinates the boxes are in, for every image; default: of each.
        batch_size: images per forward pass, padded to a common size; default: all.
        Raises TypeError or ValueError, in one line, for anything else.
        """
        check_call(score_threshold, size, output_size, batch_size)
        many = isinstance(images, (list, tuple))
        every: Sequence[ImageLike] = images if many else [images]  # type: ignore[list-item,assignment]
        step = batch_size or max(1, len(every))
        found: list[Instances] = []
        with self._lock:
            self._times = {}
            for start in range(0, len(every), step):
                found += self._detect(every[start : start + step], size, output_size)
        if score_threshold is not None:
            found = [instances.above(score_threshold) for instances in found]
        return found if many else found[0]

    def _detect(
        self, images: Sequence[ImageLike], size: NetworkSize, output_size: tuple[int, int] | None
    ) -> list[Instances]:
        """Detections of one batch; adds to the times of the call."""
        config = self.config
        pixels = [_pixels(image, as_is=size is None) for image in images]
        start = time.perf_counter()
        if size == "model" and output_size is None:
            results, before = self._core(pixels), 0.0
        else:
            batch = _batch(pixels, config.input, size)
            if output_size is not None:
                batch = _C.ImageBatch(batch.pixels, batch.sizes, [output_size] * len(images))
            before = (time.perf_counter() - start) * 1e3
            results = self._core.detect(batch)
        for stage, milliseconds in self._core.last_times.items():
            self._times[stage] = self._times.get(stage, 0.0) + milliseconds
        self._times["preprocess"] += before
        return [Instances.from_core(result, config) for result in results]

    def __reduce__(self) -> Any:
        """Pickled as the path of its file, or as its Model with the weights this has then."""
        kept = self._source
        source = kept() if isinstance(kept, weakref.ref) else os.path.abspath(kept)
        if source is None:
            raise TypeError(
                "[Predictor] its Model is gone, so it cannot be pickled; save it and use the file"
            )
        return _rebuild, (source, self._options)

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
        """Milliseconds of the last call, all its batches: preprocess, network, postprocess."""
        return dict(self._times or self._core.last_times)

    @property
    def warnings(self) -> list[str]:
        """What was odd about the model file, e.g. tensors with NaN."""
        return self._core.warnings

    def __repr__(self) -> str:
        config = self.config
        return f"<Predictor {config.family} {config.backbone.name}, {config.num_classes} classes>"
