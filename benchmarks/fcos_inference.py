# SPDX-License-Identifier: Apache-2.0
"""How much faster is FCOS R-50 at 800x1333 than the same network in plain eager PyTorch?

    python benchmarks/fcos_inference.py [--threads 2] [--repeats 10] [--json FILE]

One run times the eager float32 twin (twins/fcos.py) and instseg in float32 and bfloat16, taking turns, on
the same weights and pixels; checks that the detections are the same; and prints each stage beside the
machine's own ceiling for these convolutions. Weights are the deterministic ones of the parity tests: there is
something to detect. Being untrained, they score neighbouring boxes nearly alike, and rounding decides which
one survives NMS; so bfloat16 is judged on the candidates before NMS, and the survivors' agreement is printed
beside it.
"""

from __future__ import annotations

import argparse
import resource
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import timing
import torch
from agreement import agreement
from ceiling import ceiling, convolutions, giga_operations
from twins.fcos import Fcos

import instseg

HERE = Path(__file__).resolve().parent
PARITY = HERE.parent / "tests" / "python" / "parity"
MAX_FP32_RATIO, MAX_BF16_RATIO = 0.72, 0.40


def build_model() -> instseg.Model:
    """FCOS R-50 with the parity tests' weights, which follow from the names."""
    sys.path.insert(0, str(PARITY))
    import detweights

    from instseg.importers import official_name_map

    model = instseg.Model("fcos_R_50_1x").eval()
    state = model.state_dict()
    for official, ours in official_name_map("fcos_R_50_1x", "adelaidet").items():
        state[ours] = torch.from_numpy(detweights.fill(official, tuple(state[ours].shape)))
    model.load_state_dict(state)
    return model


def photo() -> np.ndarray:
    """A smooth synthetic 800x1333 image: gradients, discs and texture."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:800, :1333].astype(np.float32)
    image = np.stack([x / 1333 * 200, y / 800 * 200, 120 + 60 * np.sin(x / 40)], 2)
    for _ in range(40):
        cx, cy, r = rng.uniform(0, 1333), rng.uniform(0, 800), rng.uniform(10, 150)
        image[(x - cx) ** 2 + (y - cy) ** 2 < r * r] = rng.uniform(0, 255, 3)
    return np.clip(image + rng.normal(0, 8, image.shape), 0, 255).astype(np.uint8)


def without_nms(model: instseg.Model) -> instseg.Model:
    """The same weights, every candidate reported."""
    config = model.config
    post = config.post
    post.nms_threshold, post.max_detections = 1.0, 100_000
    config.post = post
    copy = instseg.Model(config).eval()
    copy.load_state_dict(model.state_dict())
    return copy


class Runner:
    """One contestant: a call per image, times by stage."""

    def __init__(self) -> None:
        self.stages: dict[str, list[float]] = {"preprocess": [], "network": [], "postprocess": []}

    def add(self, **times: float) -> None:
        for name, value in times.items():
            self.stages[name].append(value)

    def medians(self, warmup: int) -> dict[str, float]:
        result = {name: timing.median(values[warmup:]) for name, values in self.stages.items()}
        totals = [sum(values) for values in zip(*self.stages.values(), strict=True)]
        return {**result, "total": timing.median(totals[warmup:])}


class Eager(Runner):
    def __init__(self, model: instseg.Model, image: np.ndarray) -> None:
        super().__init__()
        self.network = Fcos().eval()
        self.network.load_state_dict(model.state_dict())
        self.image = torch.from_numpy(image)
        self.mean = torch.tensor(model.config.input.mean)[:, None, None]

    def pixels(self) -> torch.Tensor:
        x = self.image.flip(2).permute(2, 0, 1).float() - self.mean  # BGR
        height, width = x.shape[-2:]
        return torch.nn.functional.pad(x, (0, -width % 32, 0, -height % 32))[None]

    @torch.no_grad()
    def __call__(self) -> tuple[torch.Tensor, ...]:
        t0 = time.perf_counter()
        pixels = self.pixels()
        t1 = time.perf_counter()
        outputs = self.network(pixels)
        t2 = time.perf_counter()
        boxes, scores, labels = self.network.postprocess(outputs)
        height, width = self.image.shape[:2]
        boxes = torch.minimum(boxes.clamp(min=0), torch.tensor([width, height, width, height]))
        t3 = time.perf_counter()
        self.add(preprocess=(t1 - t0) * 1e3, network=(t2 - t1) * 1e3, postprocess=(t3 - t2) * 1e3)
        return boxes, scores, labels


class Ours(Runner):
    def __init__(self, model: instseg.Model, image: np.ndarray, precision: str) -> None:
        super().__init__()
        self.predictor = instseg.Predictor(model, precision=precision)
        self.image = image

    def __call__(self) -> instseg.Instances:
        result = self.predictor(self.image)
        self.add(**self.predictor.last_times)
        return result


def print_table(stages: dict[str, dict[str, float]], limits: dict[str, float]) -> None:
    print(f"{'ms':14}{'eager':>10}{'fp32':>10}{'ratio':>8}{'bf16':>10}{'ratio':>8}")
    for stage, eager in stages["eager"].items():
        fp32, bf16 = stages["fp32"][stage], stages["bf16"][stage]
        print(f"{stage:14}{eager:10.1f}{fp32:10.1f}{fp32 / eager:8.2f}{bf16:10.1f}{bf16 / eager:8.2f}")
    print(f"{'ceiling':14}{'':10}{limits['fp32']:10.1f}{'':8}{limits['bf16']:10.1f}")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--json", help="write the figures to this file")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)

    model, image = build_model(), photo()
    runners: dict[str, Any] = {"eager": Eager(model, image)}
    runners |= {name: Ours(model, image, name) for name in ("fp32", "bf16")}
    warmup = 2
    timing.measure(runners, args.repeats, warmup)
    stages = {name: runner.medians(warmup) for name, runner in runners.items()}
    shapes = convolutions(runners["eager"].network, runners["eager"].pixels())
    limits = {"fp32": ceiling(shapes, torch.float32), "bf16": ceiling(shapes, torch.bfloat16)}

    theirs = runners["eager"]()
    same = agreement(runners["fp32"](), theirs)
    survivors = agreement(runners["bf16"](), theirs)
    rounded = agreement(instseg.Predictor(without_nms(model), precision="bf16")(image), theirs)
    ratios = {name: stages[name]["total"] / stages["eager"]["total"] for name in ("fp32", "bf16")}
    print(f"FCOS R-50, 800x1333, {giga_operations(shapes):.0f} GFLOP of convolutions, {timing.machine()}")
    print_table(stages, limits)
    print(f"fp32 against eager: {same}")
    print(f"bf16 against eager, candidates: {rounded}")
    print(f"bf16 against eager, after NMS: {survivors}")
    passed = {
        f"fp32 ratio {ratios['fp32']:.3f} <= {MAX_FP32_RATIO}": ratios["fp32"] <= MAX_FP32_RATIO,
        f"bf16 ratio {ratios['bf16']:.3f} <= {MAX_BF16_RATIO}": ratios["bf16"] <= MAX_BF16_RATIO,
        "fp32 detections equal": same["share"] == 1 and same["max_box_error"] <= 0.05,
        f"bf16 candidates close: {rounded['share']:.3f} >= 0.95": rounded["share"] >= 0.95,
    }
    for claim, holds in passed.items():
        print("PASS" if holds else "FAIL", claim)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"peak resident memory of this process (all three contestants): {peak:.0f} MiB")
    timing.save(
        args.json,
        {"stages": stages, "ceiling": limits, "fp32": same, "bf16": rounded, "bf16_after_nms": survivors},
    )
    return 0 if all(passed.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
