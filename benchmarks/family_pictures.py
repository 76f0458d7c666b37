# SPDX-License-Identifier: Apache-2.0
"""What do models of several families see on one photo?

    python benchmarks/family_pictures.py photo.jpg picture.png FCOS=fcos.safetensors SOLO=solo.safetensors

draws the photo once per model, two in a row, with its name and the detections above --threshold, and prints
their number and the time from pixels to results (the best of five).
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

import instseg

TITLE, GAP = 26, 6  # px


def best_time(predictor: instseg.Predictor, photo: np.ndarray) -> float:
    """Milliseconds."""
    times = []
    for _ in range(5):
        start = time.perf_counter()
        predictor(photo)
        times.append(1000 * (time.perf_counter() - start))
    return min(times)


def panel(title: str, drawn: np.ndarray) -> Image.Image:
    picture = Image.new("RGB", (drawn.shape[1], drawn.shape[0] + TITLE), "white")
    picture.paste(Image.fromarray(drawn), (0, TITLE))
    ImageDraw.Draw(picture).text((4, 3), title, fill="black", font=ImageFont.load_default(17))
    return picture


def grid(panels: list[Image.Image]) -> Image.Image:
    width, height = panels[0].width + GAP, panels[0].height + GAP
    picture = Image.new("RGB", (2 * width - GAP, -(-len(panels) // 2) * height - GAP), "white")
    for i, item in enumerate(panels):
        picture.paste(item, (i % 2 * width, i // 2 * height))
    return picture


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("photo", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("models", nargs="+", metavar="TITLE=FILE")
    parser.add_argument("--threshold", type=float, default=0.3)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    photo = instseg.read_image(args.photo)
    panels = [panel("photo", np.asarray(photo))]
    for title, _, path in (item.partition("=") for item in args.models):
        predictor = instseg.Predictor(path)
        found = predictor(photo)
        shown = int((found.scores >= args.threshold).sum())
        print(f"{title:24} {shown:3} of {len(found):3} shown  {best_time(predictor, photo):7.1f} ms")
        panels.append(panel(title, found.plot(photo, args.threshold, labels=False)))
    grid(panels).save(args.output, optimize=True)


if __name__ == "__main__":
    main()
