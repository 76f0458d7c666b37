# SPDX-License-Identifier: Apache-2.0
"""How much faster are the mask families with R-50 than plain eager PyTorch, from pixels to run lengths?

    python benchmarks/mask_inference.py [--family NAME|all] [--threads 2] [--repeats 10]

An 800x1067 uint8 image in, COCO run lengths of 100 instances out (SOLO: of 150 candidates). One run times
the eager float32 twin (twins/condinst.py, twins/blendmask.py, twins/solo.py; run lengths by pycocotools) and
instseg in float32 and bfloat16, taking turns, on the same weights; checks that boxes and masks are the same;
and prints each stage. The twin makes its full-size bitmaps in "postprocess"; instseg never makes them, its
full-size pixels belong to "encode". The ceiling is that of the twin's convolutions; instseg runs the layer
that feeds the masks only where something was found. Weights are the deterministic ones of the parity tests;
see fcos_inference.py for how bfloat16 is judged. SOLO predicts no boxes: its instances are compared by label
and mask.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import timing
import torch
from agreement import agreement
from ceiling import ceiling, convolutions, giga_operations
from models import Runner, build_model, photo, print_table, twin_pixels, with_candidates, without_nms
from pycocotools import mask as coco_mask
from twins.blendmask import BlendMask, near_half
from twins.condinst import CondInst
from twins.masks import encode
from twins.solo import Solo

import instseg

PRECISIONS = ("fp32", "bf16")
STAGES = ("preprocess", "network", "postprocess", "encode")
SIZE, INSTANCES = (800, 1067), 100
MAX_BOX_ERROR, MAX_MASK_ERROR = 0.05, 1e-3  # px; share of the masks' pixels
MAX_SCORE_ERROR = 5e-4  # of SOLO, whose scores are divided by the area of a binary mask
MIN_BF16_CANDIDATES = 0.95
MIN_IOU = 0.9  # of two masks that are taken for one
RunLengths = list[dict[str, Any]]


class Family(NamedTuple):
    preset: str
    twin: Callable[[], Any]
    max_fp32_ratio: float
    max_bf16_ratio: float
    candidates: int = 0  # of SOLO, whose weights alone do not say how many instances there are

    def model(self, image: np.ndarray) -> instseg.Model:
        model = build_model(self.preset)
        return with_candidates(model, image, self.candidates) if self.candidates else model


FAMILIES = {
    "condinst": Family("condinst_MS_R_50_1x", CondInst, 0.52, 0.30),
    "blendmask": Family("blendmask_R_50_1x", BlendMask, 0.70, 0.40),
    "solo": Family("solo_R50_1x", Solo, 1.0, 1.0, 150),
    "decoupled_solo": Family("decoupled_solo_R50_1x", lambda: Solo("decoupled"), 1.0, 1.0, 150),
    "solov2": Family("solov2_R50_1x", lambda: Solo("solov2"), 1.0, 1.0, 150),
}


class Eager(Runner):
    def __init__(self, twin: Callable[[], Any], model: instseg.Model, image: np.ndarray) -> None:
        super().__init__(*STAGES)
        self.network = twin().eval()
        names = self.network.state_dict().keys()
        state = model.state_dict()
        self.network.load_state_dict({name: state[name] for name in names})
        self.image = torch.from_numpy(image)
        self.config = model.config

    def pixels(self) -> torch.Tensor:
        return twin_pixels(self.image, self.config)

    @torch.no_grad()
    def __call__(self) -> tuple[tuple[torch.Tensor, ...], RunLengths]:
        size = (self.image.shape[0], self.image.shape[1])
        t0 = time.perf_counter()
        pixels = self.pixels()
        t1 = time.perf_counter()
        outputs = self.network(pixels)
        t2 = time.perf_counter()
        result = self.network.masks(outputs, size, size)
        t3 = time.perf_counter()
        run_lengths = encode(result.masks)
        t4 = time.perf_counter()
        times = (t1 - t0, t2 - t1, t3 - t2, t4 - t3)
        self.add(**{name: seconds * 1e3 for name, seconds in zip(STAGES, times, strict=True)})
        return result[:3], run_lengths

    @torch.no_grad()
    def ties(self) -> torch.Tensor | None:
        """Pixels of the masks that rounding decides; only BlendMask has some."""
        if not isinstance(self.network, BlendMask):
            return None
        size = (self.image.shape[0], self.image.shape[1])
        return self.network.masks(self.network(self.pixels()), size, size, near_half).masks


class Ours(Runner):
    def __init__(self, model: instseg.Model | str, image: np.ndarray, precision: str) -> None:
        super().__init__(*STAGES)
        self.predictor = instseg.Predictor(model, precision=precision)
        self.image = image

    def __call__(self) -> tuple[instseg.Instances, RunLengths]:
        found = self.predictor(self.image)
        start = time.perf_counter()
        run_lengths = found.rle()
        self.add(**self.predictor.last_times, encode=(time.perf_counter() - start) * 1e3)
        return found, run_lengths


def nearest_boxes(found: instseg.Instances, theirs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    """Of each of `theirs` the nearest of ours of its label, whether it is the same, and the box error."""
    boxes, _, labels = theirs
    same = labels[:, None] == found.labels[None]
    distance = (boxes[:, None] - found.boxes[None]).abs().amax(2).masked_fill(~same, float("inf"))
    error, index = distance.min(1)
    return index, error <= 1, error


def nearest_masks(
    found: instseg.Instances, our_masks: RunLengths, labels: torch.Tensor, their_masks: RunLengths
) -> tuple[torch.Tensor, torch.Tensor]:
    """The same by the overlap of masks: SOLO predicts no boxes."""
    iou = torch.from_numpy(coco_mask.iou(their_masks, our_masks, [0] * len(our_masks)))
    best, index = iou.masked_fill(labels[:, None] != found.labels[None], 0.0).max(1)
    return index, best >= MIN_IOU


def candidates_agreement(
    found: instseg.Instances, theirs: tuple[torch.Tensor, ...], their_masks: RunLengths
) -> dict[str, float]:
    """Share of `theirs` above 0.3 with one of ours of the same label and nearly the same mask."""
    strong = (theirs[1] > 0.3).nonzero().flatten()
    if not len(strong) or not len(found):
        return {"compared": len(strong), "share": 0.0}
    chosen = [their_masks[i] for i in strong.tolist()]
    _, same = nearest_masks(found, found.rle(), theirs[2][strong], chosen)
    return {"compared": len(strong), "share": float(same.float().mean())}


def mask_agreement(
    ours: tuple[instseg.Instances, RunLengths],
    theirs: tuple[tuple[torch.Tensor, ...], RunLengths],
    ties: torch.Tensor | None,
    by_masks: bool = False,
) -> dict[str, float]:
    """Of each of `theirs` the one of ours it is, the worst errors, and how far the masks differ."""
    (found, our_masks), (rows, their_masks) = ours, theirs
    if not len(found) or not len(rows[0]):
        return {"ours": len(found), "theirs": len(rows[0]), "matched": 0}
    if by_masks:
        index, same = nearest_masks(found, our_masks, rows[2], their_masks)
        errors = {"max_score_error": float((found.scores[index] - rows[1])[same].abs().amax())}
    else:
        index, same, error = nearest_boxes(found, rows)
        errors = {"max_box_error": float(error.max())}
    wrong = total = 0
    worst = 0.0
    ious = []
    matched = same.nonzero().flatten().tolist()
    for i in matched:
        a = coco_mask.decode(their_masks[i]).astype(bool)
        b = coco_mask.decode(our_masks[int(index[i])]).astype(bool)
        unlike = a ^ b if ties is None else (a ^ b) & ~ties[i].numpy()
        different, union = int(unlike.sum()), int((a | b).sum())
        wrong, total, worst = wrong + different, total + union, max(worst, different / a.size)
        ious.append(1 - different / max(union, 1))
    return {
        "ours": len(found),
        "theirs": len(rows[0]),
        "matched": len(matched),
        **errors,
        "different_share": wrong / max(total, 1),
        "worst_mask_share_of_image": worst,
        "mean_iou": float(np.mean(ious)) if ious else 0.0,
    }


def peak_alone(family: str, contestant: str, path: str, threads: int) -> float:
    """Peak resident memory of a process that loads a model file and runs one contestant once, MiB."""
    command = [sys.executable, __file__, "--family", family, "--threads", str(threads)]
    command += ["--alone", contestant, path]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(result.stdout)


def run_alone(family: Family, contestant: str, path: str) -> float:
    image = photo(*SIZE)
    if contestant == "eager":
        runner: Any = Eager(family.twin, instseg.Model.load(path), image)
    else:
        runner = Ours(path, image, contestant)
    runner()
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) / 1024 for line in file if line.startswith("VmHWM"))


def run(name: str, args: argparse.Namespace) -> tuple[dict[str, Any], dict[str, bool]]:
    family = FAMILIES[name]
    image = photo(*SIZE)
    model, by_masks = family.model(image), family.candidates > 0
    runners: dict[str, Any] = {"eager": Eager(family.twin, model, image)}
    runners |= {precision: Ours(model, image, precision) for precision in PRECISIONS}
    warmup = 2
    timing.measure(runners, args.repeats, warmup)
    stages = {contestant: runner.medians(warmup) for contestant, runner in runners.items()}
    shapes = convolutions(runners["eager"].network, runners["eager"].pixels())
    limits = {"fp32": ceiling(shapes, torch.float32), "bf16": ceiling(shapes, torch.bfloat16)}
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/model.safetensors"
        model.save(path)
        peaks = {contestant: peak_alone(name, contestant, path, args.threads) for contestant in runners}

    theirs, ties = runners["eager"](), runners["eager"].ties()
    same = mask_agreement(runners["fp32"](), theirs, ties, by_masks)
    rounded = mask_agreement(runners["bf16"](), theirs, ties, by_masks)
    every = instseg.Predictor(without_nms(model), precision="bf16")(image)
    candidates = candidates_agreement(every, *theirs) if by_masks else agreement(every, theirs[0])
    ratios = {precision: stages[precision]["total"] / stages["eager"]["total"] for precision in PRECISIONS}
    print(f"\n{family.preset}, {SIZE[0]}x{SIZE[1]}, {len(theirs[1])} instances, "
          f"{giga_operations(shapes):.0f} GFLOP of convolutions, {timing.machine()}")  # fmt: skip
    print_table(stages, limits)
    print(
        "peak resident memory of a process of its own, MiB: " + str({k: round(v) for k, v in peaks.items()})
    )
    print(f"fp32 against eager: {same}")
    print(f"bf16 against eager, candidates: {candidates}")
    print(f"bf16 against eager, after NMS: {rounded}")
    result = {
        "stages": stages,
        "ratios": ratios,
        "ceiling": limits,
        "peak_mib": peaks,
        "fp32": same,
        "bf16": candidates,
        "bf16_after_nms": rounded,
    }
    return result, claims_of(family, result)


def claims_of(family: Family, result: dict[str, Any]) -> dict[str, bool]:
    ratios, same, share = result["ratios"], result["fp32"], result["bf16"]["share"]
    fp32, bf16 = ratios["fp32"], ratios["bf16"]
    count = same["theirs"] if family.candidates else INSTANCES
    claims = {
        f"fp32 ratio {fp32:.3f} <= {family.max_fp32_ratio}": fp32 <= family.max_fp32_ratio,
        f"bf16 ratio {bf16:.3f} <= {family.max_bf16_ratio}": bf16 <= family.max_bf16_ratio,
        f"{count} instances": same["ours"] == same["theirs"] == count > 0,
    }
    if family.candidates:
        claims["fp32 scores equal"] = same.get("max_score_error", 1.0) <= MAX_SCORE_ERROR
    else:
        claims["fp32 boxes equal"] = same.get("max_box_error", 1.0) <= MAX_BOX_ERROR
    equal = same["matched"] == count and same["different_share"] <= MAX_MASK_ERROR
    claims["fp32 masks equal"] = equal
    claims[f"bf16 candidates close: {share:.3f} >= {MIN_BF16_CANDIDATES}"] = share >= MIN_BF16_CANDIDATES
    return claims


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--family", choices=[*FAMILIES, "all"], default="all")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--json", help="write the figures to this file")
    parser.add_argument("--alone", nargs=2, metavar=("CONTESTANT", "MODEL"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.alone:
        print(run_alone(FAMILIES[args.family], *args.alone))
        return 0

    results, passed = {}, True
    for name in FAMILIES if args.family == "all" else [args.family]:
        results[name], claims = run(name, args)
        for claim, holds in claims.items():
            print("PASS" if holds else "FAIL", f"{name}: {claim}")
        passed &= all(claims.values())
    timing.save(args.json, results)
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
