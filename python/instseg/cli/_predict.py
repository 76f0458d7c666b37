# SPDX-License-Identifier: Apache-2.0
"""``instseg predict``: writes the same document and pictures as the native ``instseg-infer``."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from instseg._C import DEFAULT_PIXEL_LIMIT
from instseg.cli._common import (
    UsageError,
    check_device,
    check_file,
    check_output_file,
    count,
    examples,
    one_line,
    print_error,
    print_warning,
    progress_bar,
    write_json,
)
from instseg.model_files import is_model_file, shipped_model

if TYPE_CHECKING:
    import instseg

EXAMPLES = examples(
    "instseg predict cells.png --output out/",
    "instseg predict model.safetensors photo.jpg --output out/",
    "instseg predict model.safetensors photos/ more/one.png --json detections.json --score 0.5",
    "instseg predict model.safetensors photos/ --output out/ --device cuda --precision bf16",
)

SUFFIXES = (".jpg", ".jpeg", ".png")  # what is taken from folders
OTHER_SUFFIXES = (".bmp", ".gif", ".tif", ".tiff", ".webp")
MODEL_SUFFIX = ".safetensors"


def predict(
    inputs: Annotated[
        list[str],
        typer.Argument(
            metavar="[MODEL] IMAGE|FOLDER...",
            help="A model file (default: the model of nuclei that comes with the package), then JPEG or PNG "
            "files or folders of them.",
        ),
    ],
    model: Annotated[
        str | None, typer.Option("--model", metavar="FILE", help="The model file, instead of MODEL.")
    ] = None,
    output: Annotated[
        str | None, typer.Option("--output", metavar="DIR", help="Write every image with its detections.")
    ] = None,
    json_file: Annotated[
        str | None, typer.Option("--json", metavar="FILE", help="Write all detections; - is standard output.")
    ] = None,
    score: Annotated[float, typer.Option("--score", help="Drop detections scored lower, 0 to 1.")] = 0.3,
    device: Annotated[str, typer.Option("--device", help="cpu, cuda or cuda:N.")] = "cpu",
    precision: Annotated[str, typer.Option("--precision", help="fp32, bf16 or fp16 (CUDA only).")] = "fp32",
    max_detections: Annotated[
        int | None, typer.Option("--max-detections", min=1, help="Keep at most this many an image.")
    ] = None,
    short_side: Annotated[
        int | None, typer.Option("--short-side", min=1, help="Resize images to this shorter side, px.")
    ] = None,
    long_side: Annotated[
        int | None, typer.Option("--long-side", min=1, help="But never beyond this longer side, px.")
    ] = None,
    pixel_limit: Annotated[
        int, typer.Option("--pixel-limit", help="Refuse images with more pixels.")
    ] = DEFAULT_PIXEL_LIMIT,
    no_masks: Annotated[
        bool, typer.Option("--no-masks", help="Leave the masks out of the detections document.")
    ] = False,
) -> int:
    """Detect objects in images and folders of images."""
    import instseg
    from instseg.results import detections_document

    if not 0.0 <= score <= 1.0:
        raise UsageError(f"--score must be between 0 and 1, got {score}")
    if pixel_limit < 1:
        raise UsageError(f"--pixel-limit must be at least 1, got {pixel_limit}")
    check_device(device, precision)
    model, images = split_inputs(inputs, model)
    check_file(model, "model file")
    files, errors = expand_inputs(images)
    prepare_output(output, files)
    check_output_file(json_file, "--json")
    predictor = instseg.Predictor(
        model,
        device=device,
        precision=precision,
        score_threshold=score,
        max_detections=max_detections,
        short_side=short_side,
        long_side=long_side,
    )
    for warning in predictor.warnings:
        print_warning(warning)

    run = Run(predictor, output, score, pixel_limit, errors, masks=json_file is not None and not no_masks)
    interrupted = False
    try:
        run.process(files, each=output is None and json_file is None)
    except KeyboardInterrupt:  # what is done is kept
        interrupted = True
    if json_file is not None:
        write_json(json_file, detections_document(Path(model).name, run.done, run.errors))
    print(run.summary(len(files)), file=sys.stderr)
    return 130 if interrupted else int(bool(run.errors))


def split_inputs(inputs: list[str], model: str | None = None) -> tuple[str, list[str]]:
    """Path of the model and the images: the first of ``inputs`` is the model if its content or name says so.

    ``model`` is that of --model; without any it is the one that comes with the package. Raises UsageError
    where it is not clear what is meant, OSError when the package has no model.
    """
    images = list(inputs)
    if model is None and names_model(images[0]):
        model = images.pop(0)
        if not images:
            raise UsageError(f"no image or folder given besides the model '{model}'")
    for name in images:
        if Path(name).is_file() and _is_model(name):
            raise UsageError(
                f"'{name}' is a model file where an image is expected; one model comes first, or with --model"
            )
    return str(shipped_model()) if model is None else model, images


def _is_model(name: str) -> bool:
    try:
        return is_model_file(name)
    except OSError:  # of one image among many, which reading it will report
        return False


def names_model(name: str) -> bool:
    """Whether the first argument of the command means a model file rather than an image or a folder.

    UsageError when it is a file that is neither.
    """
    path = Path(name)
    if path.suffix == MODEL_SUFFIX:
        return True  # also a broken or missing one
    if not path.is_file():
        return not path.is_dir() and path.suffix.lower() not in (*SUFFIXES, *OTHER_SUFFIXES)
    if is_model_file(path):
        return True
    if path.suffix.lower() in SUFFIXES or begins_like_image(path):
        return False
    raise UsageError(
        f"'{name}' is neither a model file nor an image; "
        "checkpoints of other code bases become model files by 'instseg convert'"
    )


def begins_like_image(path: Path) -> bool:
    """Whether a decoder takes the first bytes of a file for an image."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path):
            return True
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return False


def expand_inputs(inputs: list[str]) -> tuple[list[str], list[dict[str, str]]]:
    """Files named by ``inputs``: files as they are, folders as the images directly in them, sorted.

    Returns:
        The files, and a ``{"file", "error"}`` entry for every folder that gives none.
    """
    files: list[str] = []
    errors: list[dict[str, str]] = []
    for name in inputs:
        if not Path(name).is_dir():
            files.append(name)
            continue
        prefix = name if name.endswith("/") else name + "/"
        found = [p.name for p in Path(name).iterdir() if p.suffix.lower() in SUFFIXES and not p.is_dir()]
        files += [prefix + file for file in sorted(found, key=os.fsencode)]  # byte order, as instseg-infer
        if not found:
            errors.append({"file": name, "error": "no image files (.jpg, .jpeg, .png) in this folder"})
    return files, errors


def prepare_output(output: str | None, files: list[str]) -> None:
    """Create the folder for pictures; ValueError when it holds inputs that would be replaced."""
    if output is None:
        return
    Path(output).mkdir(parents=True, exist_ok=True)
    folders = {Path(file).parent for file in files}
    if any(folder.is_dir() and folder.samefile(output) for folder in folders):
        raise ValueError(f"pictures in '{output}' would replace input images; choose another --output folder")


class PictureNames:
    """Names of output pictures: the input's name (.png unless it is a JPEG), numbered when shared."""

    def __init__(self, folder: str) -> None:
        self._folder = Path(folder)
        self._used: set[str] = set()

    def next(self, file: str) -> str:
        """Path of the picture for ``file``; never the same twice."""
        path = Path(file)
        kept = path.suffix if path.suffix.lower() in (".jpg", ".jpeg") else ".png"
        name, number = path.stem + kept, 2
        while name in self._used:
            name, number = f"{path.stem}_{number}{kept}", number + 1
        self._used.add(name)
        return str(self._folder / name)


class Run:
    """All that one call of the command accumulates."""

    def __init__(
        self,
        predictor: instseg.Predictor,
        output: str | None,
        score: float,
        pixel_limit: int,
        errors: list[dict[str, str]],
        masks: bool,
    ) -> None:
        self._predictor = predictor
        self._score = score
        self._pixel_limit = pixel_limit
        self._output = output
        self._masks = masks
        self._pictures = None if output is None else PictureNames(output)
        self._started = time.perf_counter()
        self.done: list[dict[str, Any]] = []
        self.errors = errors
        for entry in errors:
            print_error(f"{entry['file']}: {entry['error']}")

    def process(self, files: list[str], each: bool) -> None:
        """Run all files with a progress bar; with ``each``, print every detection instead."""
        with progress_bar("images", hidden=each) as bar:
            for file in bar.track(files):
                try:
                    self.done.append(self._process_one(file))
                except Exception as error:  # one image, e.g. out of memory, must not cost the others
                    text = error_text(error)
                    self.errors.append({"file": file, "error": text})
                    print_error(text if file in text else f"{file}: {text}")
                    continue
                if each:
                    print(image_text(self.done[-1]), flush=True)

    def _process_one(self, file: str) -> dict[str, Any]:
        import instseg

        image = instseg.read_image(file, pixel_limit=self._pixel_limit)
        instances = self._predictor(image)
        if self._pictures is not None:
            instances.save_plot(self._pictures.next(file), image, score_threshold=self._score)
        return instances.to_dict(file, masks=self._masks)

    def summary(self, total: int) -> str:
        """E.g. ``3 of 4 images done in 1.20 s, pictures in out, 1 input failed``."""
        seconds = time.perf_counter() - self._started
        text = f"{len(self.done)} of {count(total, 'image')} done in {seconds:.2f} s"
        text += f", pictures in {self._output}" if self._output is not None else ""
        return text + (f", {count(len(self.errors), 'input')} failed" if self.errors else "")


def error_text(error: Exception) -> str:
    """An error as one line; of unexpected ones, whose messages carry native stacks, only the first."""
    if isinstance(error, (ValueError, OSError)):
        return one_line(str(error))
    lines = str(error).strip().splitlines()
    return one_line(lines[0]) if lines else type(error).__name__


def image_text(entry: dict[str, Any]) -> str:
    """An entry of the document as lines for people."""
    found = entry["detections"]
    lines = [f"{entry['file']}  {entry['width']}x{entry['height']}  {count(len(found), 'detection')}"]
    for d in found:
        box = " ".join(f"{value:.1f}" for value in d["box"])
        lines.append(f"  {d['class']}  {d['score']:.3f}  [{box}]")
    return "\n".join(lines)
