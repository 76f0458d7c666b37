# SPDX-License-Identifier: Apache-2.0
"""Do a trained model's bfloat16 detections equal its float32 ones?

    python benchmarks/bf16_agreement.py demo/output/model.safetensors demo/data/nuclei/images/*.jpg

Prints the share of float32 detections above 0.3 that have a bfloat16 detection of the same label within 1 px
and 0.02, both after NMS, and exits with 1 when it is below 0.95.
"""

from __future__ import annotations

import argparse
import sys

from agreement import agreement

import instseg

REQUIRED = 0.95


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", help="model file")
    parser.add_argument("images", nargs="+", help="image files")
    args = parser.parse_args()

    exact, rounded = (instseg.Predictor(args.model, precision=precision) for precision in ("fp32", "bf16"))
    compared = close = 0.0
    for file in args.images:
        expected = exact(file)
        if not len(expected.above(0.3)):
            continue
        result = agreement(rounded(file), (expected.boxes, expected.scores, expected.labels))
        compared += result["compared"]
        close += result["compared"] * result["share"]
    share = close / max(compared, 1)
    print(f"{close:.0f} of {compared:.0f} detections agree ({share:.3f}, at least {REQUIRED})")
    return 0 if share >= REQUIRED else 1


if __name__ == "__main__":
    sys.exit(main())
