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
from typing import Any

import numpy as np
import timing
import torch
from agreement import agreement
from ceiling import ceiling, convolutions, giga_operations
from models import Runner, build_model, photo, print_table, twin_pixels, without_nms
from twins.fcos import Fcos

import instseg

STAGES = ("preprocess", "network", "postprocess")
MAX_FP32_RATIO, MAX_BF16_RATIO = 0.72, 0.40


class Eager(Runner):
    def __init__(self, model: instseg.Model, image: np.ndarray) -> None:
        super().__init__(*STAGES)
        self.network = Fcos().eval()
        self.network.load_state_dict(model.state_dict())
        self.image = torch.from_numpy(image)
        self.config = model.config

    def pixels(self) -> torch.Tensor:
        return twin_pixels(self.image, self.config)

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
        super().__init__(*STAGES)
        self.predictor = instseg.Predictor(model, precision=precision)
        self.image = image

    def __call__(self) -> instseg.Instances:
        result = self.predictor(self.image)
        self.add(**self.predictor.last_times)
        return result


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--json", help="write the figures to this file")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)

    model, image = build_model("fcos_R_50_1x"), photo(800, 1333)
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
