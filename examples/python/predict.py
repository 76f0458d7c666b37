# SPDX-License-Identifier: Apache-2.0
"""Detects objects in one image and saves a picture.

python examples/python/predict.py demo/output/model.safetensors image.jpg detections.png
"""

from __future__ import annotations

import argparse

import instseg


def main() -> None:
    parser = argparse.ArgumentParser(description="Detect objects in one image.")
    parser.add_argument("model", help="model file")
    parser.add_argument("image", help="JPEG or PNG file")
    parser.add_argument("output", help="picture to write")
    parser.add_argument("--score", type=float, default=0.3, help="drop detections scored lower")
    arguments = parser.parse_args()

    predictor = instseg.Predictor(arguments.model, score_threshold=arguments.score)
    instances = predictor(arguments.image)
    # Masks become pixels only when asked for; bitmaps(), rle(), polygons() and crops() give other forms.
    areas = [None] * len(instances) if instances.masks is None else instances.area().tolist()
    rows = zip(instances.names, instances.scores.tolist(), instances.boxes.tolist(), areas, strict=True)
    for name, score, box, area in rows:
        mask = "" if area is None else f"  mask {area} px"
        print(f"{name}  {score:.3f}  {' '.join(f'{value:.1f}' for value in box)}{mask}")
    instances.save_plot(arguments.output, arguments.image, score_threshold=arguments.score)
    times = predictor.last_times
    print(", ".join(f"{stage} {milliseconds:.1f} ms" for stage, milliseconds in times.items()))


if __name__ == "__main__":
    main()
