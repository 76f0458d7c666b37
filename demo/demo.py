# SPDX-License-Identifier: Apache-2.0
"""Trains CondInst on cell nuclei, evaluates its masks, runs it on held-out images from Python and natively.

    python demo/demo.py              # what `make demo` runs
    python demo/demo.py --fresh      # train again instead of reusing demo/output

Everything is written to demo/output. A finished run is reused, an interrupted one continued.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import yaml
from compare import compare_documents, compare_pictures
from contact_sheet import contact_sheet, varied_images

import instseg
from instseg._bin import native_root
from instseg.data import CocoDataset
from instseg.evaluation import MASK_PREFIX, evaluate
from instseg.recipe import Recipe, load_recipe
from instseg.results import detections_document
from instseg.training import Trainer

ROOT = Path(__file__).resolve().parent.parent
RECIPE = "nuclei_condinst_lite0"
SCORE = 0.5  # detections below are neither listed nor drawn
BOX_TOLERANCE = 0.01  # px
SCORE_TOLERANCE = 1e-5
MIN_MASK_AP50 = 0.55  # a run below has failed


def main() -> int:
    arguments = parse_arguments()
    os.chdir(ROOT)  # the recipe names its data relative to the repository
    started = time.monotonic()
    output = Path(arguments.output)
    recipe = load_recipe(RECIPE, arguments.overrides)

    heading("1. Train", f"{recipe.name}, {recipe.solver.iterations} iterations")
    model_file = train(recipe, output, fresh=arguments.fresh)

    held_out = CocoDataset(recipe.data.val.annotations, recipe.data.val.images, masks=True)
    heading("2. Evaluate", f"{len(held_out)} held-out images, pycocotools")
    numbers = evaluate(instseg.Predictor(model_file), held_out)
    print_table(numbers)

    files = [str(held_out.path(i)) for i in range(len(held_out))]
    heading("3. Python API", f"{len(files)} images")
    python = run_python(model_file, files, output / "python")
    heading("4. Native program", "instseg-infer on the same images")
    native = run_native(model_file, files, output / "native")

    heading("5. Compare")
    agrees = report_agreement(python, native, output)
    sheet = output / "nuclei_demo.png"
    documents = {"Python": python, "native program": native}
    contact_sheet(held_out, varied_images(held_out), documents).save(sheet, optimize=True)

    heading("Done", f"in {time.monotonic() - started:.0f} s")
    print_files(output, model_file, sheet)
    return 0 if is_accurate(numbers) and agrees else 1


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Train, evaluate and compare on cell nuclei.")
    parser.add_argument("--output", default="demo/output", help="folder for all results")
    parser.add_argument("--fresh", action="store_true", help="train again instead of reusing the folder")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="fields of the recipe to change")
    return parser.parse_args()


def heading(title: str, detail: str = "") -> None:
    print(f"\n== {title}{': ' if detail else ''}{detail}", flush=True)


def train(recipe: Recipe, output: Path, *, fresh: bool) -> str:
    """Model file of a training run in ``output``; a run of another recipe there is replaced."""
    written = output / "recipe.yaml"  # by the trainer, when it starts
    same = written.is_file() and yaml.safe_load(written.read_text("utf-8")) == recipe.model_dump(mode="json")
    Trainer(recipe, output, resume=same and not fresh).run()
    return str(output / "model.safetensors")


def print_table(numbers: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    keys = ("AP", "AP50", "AP75", "APs", "APm", "APl")
    table = Table("", title="percent")
    for key in keys:
        table.add_column(key, justify="right")
    for kind, prefix in (("boxes", ""), ("masks", MASK_PREFIX)):
        values = (numbers[prefix + key] for key in keys)
        table.add_row(kind, *(f"{100 * value:.1f}" if value >= 0 else "-" for value in values))
    Console().print(table)


def is_accurate(numbers: dict[str, Any]) -> bool:
    """Whether mask AP50 reaches MIN_MASK_AP50; says so on stderr when not."""
    reached = numbers[f"{MASK_PREFIX}AP50"]
    if reached >= MIN_MASK_AP50:
        return True
    message = f"mask AP50 on the held-out images is {reached:.3f}, below {MIN_MASK_AP50:.2f}"
    print(f"demo: error: {message}", file=sys.stderr)
    return False


def run_python(model_file: str, files: list[str], folder: Path) -> dict[str, Any]:
    """Detects with the Python API; writes pictures and detections.json; returns the document."""
    from rich.progress import track

    folder.mkdir(parents=True, exist_ok=True)
    predictor = instseg.Predictor(model_file, score_threshold=SCORE)
    images = []
    for file in track(files, description="predict"):
        image = instseg.read_image(file)
        instances = predictor(image)
        instances.save_plot(str(folder / Path(file).name), image, score_threshold=SCORE)
        images.append(instances.to_dict(file))
    document = detections_document(Path(model_file).name, images)
    (folder / "detections.json").write_text(
        json.dumps(document, indent=2, ensure_ascii=False), encoding="utf-8"
    )
    return document


def run_native(model_file: str, files: list[str], folder: Path) -> dict[str, Any]:
    """Detects with instseg-infer in an empty environment; returns the document it wrote."""
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / "detections.json"
    command = [str(native_root() / "bin" / "instseg-infer"), model_file, *files]
    command += ["--output", str(folder), "--json", str(target), "--score", str(SCORE)]
    subprocess.run(command, env={}, check=True, stdout=subprocess.DEVNULL)
    document: dict[str, Any] = json.loads(target.read_text(encoding="utf-8"))
    return document


def report_agreement(python: dict[str, Any], native: dict[str, Any], output: Path) -> bool:
    """Prints the differences between both programs; whether they are within the tolerances."""
    names = [Path(image["file"]).name for image in python["images"]]
    found = compare_documents(python, native)
    pictures = compare_pictures(output / "python", output / "native", names)
    print(f"detections                {found.detections} (Python), {found.other_detections} (native)")
    print(f"largest box difference    {found.box:.2g} px (at most {BOX_TOLERANCE})")
    print(f"largest score difference  {found.score:.2g} (at most {SCORE_TOLERANCE})")
    print(f"identical masks           {found.identical_masks} of {found.detections}")
    print(f"identical pictures        {pictures.identical} of {pictures.total}")
    agrees = found.same_structure and found.box <= BOX_TOLERANCE and found.score <= SCORE_TOLERANCE
    agrees = agrees and found.identical_masks == found.detections
    agrees = agrees and pictures.identical == pictures.total
    print("Python and the native program agree." if agrees else "Python and the native program DISAGREE.")
    return agrees


def print_files(output: Path, model_file: str, sheet: Path) -> None:
    rows = (
        ("model file", model_file),
        ("pictures, Python", output / "python"),
        ("pictures, native", output / "native"),
        ("side by side", sheet),
    )
    for name, path in rows:
        print(f"{name:<18}{path}")


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        print("\ninterrupted; run again to continue", file=sys.stderr)
        sys.exit(130)
    except (ValueError, OSError, RuntimeError, subprocess.CalledProcessError) as error:
        print(f"demo: error: {error}", file=sys.stderr)
        sys.exit(1)
