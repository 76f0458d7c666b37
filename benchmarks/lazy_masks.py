# SPDX-License-Identifier: Apache-2.0
"""What does SOLO save by computing only the mask channels of cells that have a class?

    python benchmarks/lazy_masks.py [--candidates 50] [--threads 2] [--repeats 5] [--json FILE]

SOLO R-50 has 3872 mask channels of an 800x1333 image, one per cell. One run times, taking turns and on the
same network, lowered to float32 as a Predictor has it, "lazy": detect, which computes the channels of cells
with a class alone; "all": all of them in the published order (intermediates: tower, x2, output convolution),
then sigmoid, resize, choice, packing and NMS by the same operations; and "none": a model that finds no cell,
hence runs no mask branch. Checks that the instances are the same. Memory is the growth of the resident
set in a process of its own; that of the masks is what a contestant needs beyond "none". The class bias of
the deterministic weights is shifted such that exactly so many cells have a class.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import timing
import torch
import torch.nn.functional as F
from mask_memory import status
from models import build_model, photo, with_candidates, with_post

import instseg
from instseg import ops

SIZE = (800, 1333)
PRESET = "solo_R50_1x"
STRIDES = (8, 8, 16, 32, 32)
CONTESTANTS = ("lazy", "all", "none")
MAX_TIME_RATIO, MIN_MEMORY_RATIO = 1 / 1.3, 2.0  # of the whole call; of the masks' memory
SCORE, PROBABILITY = 1e-5, 1e-5


class Found(NamedTuple):
    scores: torch.Tensor  # [N], best first
    labels: torch.Tensor  # [N]
    probabilities: torch.Tensor  # [N, h, w] at stride 4


def of_instances(found: instseg.Instances) -> Found:
    assert found.masks is not None
    return Found(found.scores, found.labels, found.masks.probabilities)


@torch.no_grad()
def from_all_maps(core: Any, batch: instseg.ImageBatch) -> Found:
    """The instances of one image, chosen from the masks of all cells."""
    config, named = core.config, core.intermediates(batch)
    solo, size = config.solo, tuple(named["res2"].shape[2:])
    scores, labels, strides, chosen = [], [], [], []
    for level, stride in enumerate(STRIDES):
        maps = named.pop(f"mask.{level}").sigmoid_()
        maps = maps if maps.shape[2:] == size else F.interpolate(maps, size, mode="bilinear")
        found = ops.points_nms(named[f"cls.{level}"][0], config.post.score_threshold)
        scores.append(found.scores)
        labels.append(found.labels)
        strides.append(torch.full_like(found.cells, stride))
        chosen.append(maps[0][found.cells])
    masks, score, label = torch.cat(chosen), torch.cat(scores), torch.cat(labels)
    packed = ops.pack_masks(masks)
    large = (packed.areas > torch.cat(strides)).nonzero().flatten()
    score = (score * packed.mass / packed.areas)[large]
    order = large[score.argsort(descending=True, stable=True)[: solo.max_candidates]]
    score = score.sort(descending=True, stable=True).values[: solo.max_candidates]
    score = ops.matrix_nms(packed.select(order), score, label[order], solo.nms_kernel, solo.nms_sigma)
    best = score.argsort(descending=True, stable=True)
    best = best[score[best] >= solo.update_threshold][: config.post.max_detections]
    result = Found(score[best], label[order][best], masks[order[best]])
    height, width = batch.sizes[0]
    instseg.Masks(  # boxes around the masks are part of what detect() returns
        result.probabilities, batch.original_sizes[0], enlarge="half_pixel", network_size=(height, width)
    ).area()
    return result


def contestant(name: str, path: str) -> Callable[[instseg.ImageBatch], Found]:
    model = instseg.Model.load(path).eval()
    if name == "none":
        model = with_post(model, score_threshold=0.9999)
    core = model._core
    core.lower(torch.float32)
    if name == "all":
        return lambda batch: from_all_maps(core, batch)
    return lambda batch: of_instances(core.detect(batch)[0])


def peak_alone(name: str, path: str) -> dict[str, int]:
    """Bytes that one call adds to the resident set of this process."""
    config = instseg.Model.load(path).config
    run = contestant(name, path)
    run(ops.make_batch([photo(64, 64)], config.input))
    batch = ops.make_batch([photo(*SIZE)], config.input)
    try:
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    except OSError:
        print("the peak of the resident set cannot be restarted", file=sys.stderr)
    before = status("VmRSS")
    run(batch)
    return {"bytes": status("VmHWM") - before}


def peak_of(name: str, path: str, threads: int) -> int:
    command = [sys.executable, __file__, "--alone", name, path, "--threads", str(threads)]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return int(json.loads(output)["bytes"])


def differences(lazy: Found, full: Found) -> dict[str, float]:
    if len(lazy.scores) != len(full.scores) or not torch.equal(lazy.labels, full.labels):
        return {"instances": len(lazy.scores), "of_all_maps": len(full.scores), "same": False}
    score = float((lazy.scores - full.scores).abs().max()) if len(full.scores) else 0.0
    soft = (lazy.probabilities - full.probabilities).abs()
    probability = float(soft.max()) if len(full.scores) else 0.0
    return {
        "instances": len(lazy.scores),
        "of_all_maps": len(full.scores),
        "same": len(full.scores) > 0 and score <= SCORE and probability <= PROBABILITY,
        "max_score_difference": score,
        "max_probability_difference": probability,
    }


def candidates_by_level(model: instseg.Model, batch: instseg.ImageBatch) -> list[int]:
    named, threshold = model.intermediates(batch), model.config.post.score_threshold
    return [len(ops.points_nms(named[f"cls.{level}"][0], threshold).cells) for level in range(len(STRIDES))]


def run(path: str, model: instseg.Model, args: argparse.Namespace) -> tuple[dict[str, Any], dict[str, bool]]:
    batch = ops.make_batch([photo(*SIZE)], model.config.input)
    by_level = candidates_by_level(model, batch)
    runners = {name: contestant(name, path) for name in CONTESTANTS}
    found = differences(runners["lazy"](batch), runners["all"](batch))
    calls = {name: lambda runner=runner: runner(batch) for name, runner in runners.items()}
    times = timing.measure(calls, args.repeats, warmup=1)
    medians = {name: timing.median(values) for name, values in times.items()}
    del runners, calls
    peaks = {name: peak_of(name, path, args.threads) for name in CONTESTANTS}
    masks = {name: max(peaks[name] - peaks["none"], 0) for name in ("lazy", "all")}
    print(f"{PRESET}, {SIZE[0]}x{SIZE[1]}, candidates by level {by_level}, {timing.machine()}")
    for name, values in times.items():
        print(f"{name:5} {timing.spread(values):32} {peaks[name] / 1e6:8.0f} MB")
    print(f"instances: {found}")
    time_ratio, memory_ratio = medians["lazy"] / medians["all"], masks["all"] / max(masks["lazy"], 1)
    saved = (medians["all"] - medians["none"]) / max(medians["lazy"] - medians["none"], 1e-3)
    print(f"mask part alone: {saved:.1f} times as fast, {masks['lazy'] / 1e6:.0f} MB instead of "
          f"{masks['all'] / 1e6:.0f} MB")  # fmt: skip
    claims = {
        f"{sum(by_level)} candidates of {args.candidates}": sum(by_level) == args.candidates,
        f"levels with candidates: {sum(n > 0 for n in by_level)}, several": sum(n > 0 for n in by_level) > 1,
        "same instances": bool(found["same"]),
        f"time ratio {time_ratio:.3f} <= {MAX_TIME_RATIO}": time_ratio <= MAX_TIME_RATIO,
        f"memory of the masks at least {MIN_MEMORY_RATIO:g} times smaller": memory_ratio >= MIN_MEMORY_RATIO,
    }
    figures = {
        "candidates_by_level": by_level,
        "milliseconds": medians,
        "time_ratio": time_ratio,
        "mask_part_speedup": saved,
        "peak_bytes": peaks,
        "mask_bytes": masks,
        "instances": found,
    }
    return figures, claims


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--candidates", type=int, default=50)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", help="write the figures to this file")
    parser.add_argument("--alone", nargs=2, metavar=("CONTESTANT", "MODEL"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.alone:
        print(json.dumps(peak_alone(*args.alone)))
        return 0
    model = with_candidates(build_model(PRESET), photo(*SIZE), args.candidates)
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/model.safetensors"
        model.save(path)
        figures, claims = run(path, model, args)
    for claim, holds in claims.items():
        print("PASS" if holds else "FAIL", claim)
    timing.save(args.json, figures)
    return 0 if all(claims.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
