# SPDX-License-Identifier: Apache-2.0
"""How much memory do the masks of 300 instances on a 12-megapixel photo take?

    python benchmarks/mask_memory.py [--family NAME|all] [--threads 2] [--json FILE]

A process of its own loads the model and lowers it (one small image: weights are packed when first used),
notes its resident memory, then detects 300 instances on a 4000x3000 image and makes their run lengths. As
bitmaps these masks would be 3.6 GB. Counted: peak resident memory above that of the lowered model.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import timing
import torch
from models import build_model, photo, with_candidates, with_fields, with_post

import instseg

HEIGHT, WIDTH, INSTANCES = 3000, 4000, 300
LIMIT = 600e6  # bytes
PRESETS = {
    "condinst": "condinst_MS_R_50_1x",
    "blendmask": "blendmask_R_50_1x",
    "solo": "solo_R50_1x",
    "decoupled_solo": "decoupled_solo_R50_1x",
    "solov2": "solov2_R50_1x",
}


def status(field: str) -> int:
    """VmRSS or VmHWM of this process, bytes."""
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith(field))


def measure(path: str, threads: int) -> dict[str, Any]:
    """In the process of its own."""
    torch.set_num_threads(threads)
    image = photo(HEIGHT, WIDTH)
    predictor = instseg.Predictor(path)
    predictor(image[:256, :256].copy(), size=None)
    try:
        # The peak starts anew: making the image and reading the file have peaks of their own.
        Path("/proc/self/clear_refs").write_text("5")
        peak_restarted = True
    except OSError:
        peak_restarted = False
    before = status("VmRSS")
    start = time.perf_counter()
    found = predictor(image)
    detected = time.perf_counter()
    run_lengths = found.rle()
    encoded = time.perf_counter()
    return {
        "instances": len(run_lengths),
        "model_bytes": before,
        "peak_bytes": status("VmHWM"),
        "peak_restarted": peak_restarted,
        "predict_ms": (detected - start) * 1e3,
        "rle_ms": (encoded - detected) * 1e3,
    }


def crowded(family: str) -> instseg.Model:
    """A model that finds INSTANCES objects in the photo."""
    model = build_model(PRESETS[family])
    if model.config.family != "solo":
        return with_post(model, score_threshold=0.005, max_detections=INSTANCES)
    model = with_candidates(model, photo(HEIGHT, WIDTH), 2 * INSTANCES)
    return with_post(with_fields(model, "solo", update_threshold=0.0), max_detections=INSTANCES)


def measure_alone(family: str, threads: int) -> dict[str, Any]:
    model = crowded(family)
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/model.safetensors"
        model.save(path)
        command = [sys.executable, __file__, "--measure", path, "--threads", str(threads)]
        run = subprocess.run(command, capture_output=True, text=True, check=True)
    result: dict[str, Any] = json.loads(run.stdout)
    result["above_model_bytes"] = result["peak_bytes"] - result["model_bytes"]
    return result


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--family", choices=[*PRESETS, "all"], default="all")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", help="write the figures to this file")
    parser.add_argument("--measure", metavar="MODEL", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        print(json.dumps(measure(args.measure, args.threads)))
        return 0

    results, passed = {}, True
    for family in PRESETS if args.family == "all" else [args.family]:
        result = results[family] = measure_alone(family, args.threads)
        above, count = result["above_model_bytes"], result["instances"]
        print(f"{family}: {result}")
        claims = {
            f"{count} of {INSTANCES} instances": count >= INSTANCES,
            f"{above / 1e6:.0f} MB above the model <= {LIMIT / 1e6:.0f} MB": above <= LIMIT,
        }
        for claim, holds in claims.items():
            print("PASS" if holds else "FAIL", f"{family}: {claim}")
        passed &= all(claims.values())
    timing.save(args.json, results)
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
