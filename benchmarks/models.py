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
    for official, ours in official_name_map(preset, "adelaidet").items():
        values = detweights.fill(official, tuple(state[ours].shape))
        state[ours] = torch.from_numpy(np.asarray(values))
    model.load_state_dict(state)
    return model


def with_post(model: instseg.Model, **changes: Any) -> instseg.Model:
    """The same weights, other fields of `post`."""
    config = model.config
    post = config.post
    for name, value in changes.items():
        setattr(post, name, value)
    config.post = post
    copy = instseg.Model(config).eval()
    copy.load_state_dict(model.state_dict())
    return copy


def without_nms(model: instseg.Model) -> instseg.Model:
    """The same weights, every candidate reported."""
    return with_post(model, nms_threshold=1.0, max_detections=100_000)


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
    """An RGB uint8 [H, W, 3] image as the network's input, for models trained on BGR with std 1."""
    x = image.flip(2).permute(2, 0, 1).float() - torch.tensor(config.input.mean)[:, None, None]
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
