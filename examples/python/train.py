# SPDX-License-Identifier: Apache-2.0
"""Trains a small detector on a COCO data set of your own and evaluates it; with --masks CondInst.

python examples/python/train.py --train train.json images/ --val val.json images/ --output runs/mine --masks
"""

from __future__ import annotations

import argparse
import sys

import instseg
from instseg.data import CocoDataset, check_dataset
from instseg.evaluation import evaluate
from instseg.recipe import load_recipe
from instseg.training import Trainer


def main() -> int:
    parser = argparse.ArgumentParser(description="Train on your own data.")
    parser.add_argument("--train", nargs=2, required=True, metavar=("JSON", "IMAGES"))
    parser.add_argument("--val", nargs=2, required=True, metavar=("JSON", "IMAGES"))
    parser.add_argument("--output", required=True, help="folder of the run")
    parser.add_argument("--iterations", type=int, default=1000)
    parser.add_argument("--masks", action="store_true", help="learn masks, too")
    arguments = parser.parse_args()

    for json_file, images in (arguments.train, arguments.val):
        problems = check_dataset(json_file, images, masks=arguments.masks)
        for problem in problems:
            print(problem, file=sys.stderr)
        if problems:
            return 1

    recipe = load_recipe(
        "nuclei_condinst_lite0" if arguments.masks else "nuclei_efficientnet_lite0",
        [
            f"data.train.annotations={arguments.train[0]}",
            f"data.train.images={arguments.train[1]}",
            f"data.val.annotations={arguments.val[0]}",
            f"data.val.images={arguments.val[1]}",
            f"solver.iterations={arguments.iterations}",
            f"solver.milestones=[{arguments.iterations * 7 // 10 or 1}]",
        ],
    )
    Trainer(recipe, arguments.output).run()

    predictor = instseg.Predictor(f"{arguments.output}/model.safetensors")
    numbers = evaluate(predictor, CocoDataset(*arguments.val, masks=arguments.masks))
    print(f"AP {numbers['AP']:.3f}, AP50 {numbers['AP50']:.3f}")
    if "mask_AP" in numbers:
        print(f"mask AP {numbers['mask_AP']:.3f}, mask AP50 {numbers['mask_AP50']:.3f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
