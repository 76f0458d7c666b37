# SPDX-License-Identifier: Apache-2.0
"""The models, the image and the contestants of the inference benchmarks."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import timing
import torch

import instseg

PARITY = Path(__file__).resolve().parent.parent / "tests" / "python" / "parity"


def build_model(preset: str) -> instseg.Model:
    """A preset with the parity tests' weights, which follow from the names: there is something to detect."""
    sys.path.insert(0, str(PARITY))
    import detweights

    from instseg.importers import official_name_map

    model = instseg.Model(preset).eval()
    state = model.state_dict()
    from_solo = model.config.family == "solo" and not preset.startswith("adet")
    for official, ours in official_name_map(preset, "solo" if from_solo else "adelaidet").items():
        values = detweights.fill(official, tuple(state[ours].shape))
        state[ours] = torch.from_numpy(np.asarray(values))
    model.load_state_dict(state)
    return model


def with_fields(model: instseg.Model, section: str, **changes: Any) -> instseg.Model:
    """The same weights, other fields of a section of the configuration."""
    config = model.config
    fields = getattr(config, section)
    for name, value in changes.items():
        setattr(fields, name, value)
    setattr(config, section, fields)
    copy = instseg.Model(config).eval()
    copy.load_state_dict(model.state_dict())
    return copy


def with_post(model: instseg.Model, **changes: Any) -> instseg.Model:
    """The same weights, other fields of `post`."""
    return with_fields(model, "post", **changes)


def without_nms(model: instseg.Model) -> instseg.Model:
    """The same weights, every candidate reported."""
    if model.config.family == "solo":
        model = with_fields(model, "solo", nms="mask", update_threshold=0.0, max_candidates=100_000)
    return with_post(model, nms_threshold=1.0, max_detections=100_000)


def with_candidates(model: instseg.Model, image: np.ndarray, count: int) -> instseg.Model:
    """SOLO with its class bias shifted such that exactly `count` cells of `image` have a class."""
    named = model.intermediates(instseg.ops.preprocess([image], model.config.input))
    peaks = []
    for level in range(len(model.config.solo.grids)):
        logits = named[f"cls.{level}"]
        # A logit is a peak if it is no smaller than those above, to the left and above-left.
        highest = torch.nn.functional.max_pool2d(logits, 2, stride=1, padding=1)[..., :-1, :-1]
        peaks.append(logits[logits == highest])
    best = torch.cat(peaks).double().topk(count + 1).values
    threshold = model.config.post.score_threshold
    shift = float(np.log(threshold / (1 - threshold)) - (best[count - 1] + best[count]) / 2)
    state = model.state_dict()
    state["head.cls_logits.bias"] = state["head.cls_logits.bias"] + shift
    copy = instseg.Model(model.config).eval()
    copy.load_state_dict(state)
    return copy


def photo(height: int, width: int) -> np.ndarray:
    """A smooth synthetic image: gradients, discs and texture."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:height, :width].astype(np.float32)
    image = np.stack([x / width * 200, y / height * 200, 120 + 60 * np.sin(x / 40)], 2)
    for _ in range(40):
        cx, cy, r = rng.uniform(0, width), rng.uniform(0, height), rng.uniform(10, 150)
        image[(x - cx) ** 2 + (y - cy) ** 2 < r * r] = rng.uniform(0, 255, 3)
    return np.clip(image + rng.normal(0, 8, image.shape), 0, 255).astype(np.uint8)


def twin_pixels(image: torch.Tensor, config: instseg.ModelConfig) -> torch.Tensor:
    """An RGB uint8 [H, W, 3] image as the network's input."""
    x = (image.flip(2) if config.input.channel_order == "bgr" else image).permute(2, 0, 1).float()
    x = x - torch.tensor(config.input.mean)[:, None, None]
    if set(config.input.std) != {1.0}:
        x = x / torch.tensor(config.input.std)[:, None, None]
    height, width = x.shape[-2:]
    return torch.nn.functional.pad(x, (0, -width % 32, 0, -height % 32))[None]


class Runner:
    """One contestant: a call per image, times by stage."""

    def __init__(self, *stages: str) -> None:
        self.stages: dict[str, list[float]] = {name: [] for name in stages}

    def add(self, **times: float) -> None:
        for name, value in times.items():
            self.stages[name].append(value)

    def medians(self, warmup: int) -> dict[str, float]:
        result = {name: timing.median(values[warmup:]) for name, values in self.stages.items()}
        totals = [sum(values) for values in zip(*self.stages.values(), strict=True)]
        return {**result, "total": timing.median(totals[warmup:])}


def print_table(stages: dict[str, dict[str, float]], limits: dict[str, float] | None = None) -> None:
    print(f"{'ms':14}{'eager':>10}{'fp32':>10}{'ratio':>8}{'bf16':>10}{'ratio':>8}")
    for stage, eager in stages["eager"].items():
        fp32, bf16 = stages["fp32"][stage], stages["bf16"][stage]
        print(f"{stage:14}{eager:10.1f}{fp32:10.1f}{fp32 / eager:8.2f}{bf16:10.1f}{bf16 / eager:8.2f}")
    if limits:
        print(f"{'ceiling':14}{'':10}{limits['fp32']:10.1f}{'':8}{limits['bf16']:10.1f}")
