# SPDX-License-Identifier: Apache-2.0
"""How many images a second does training CondInst R-50 reach, compared with plain eager PyTorch?

    python benchmarks/training_throughput.py [--threads 2] [--precision fp32|bf16] [--channels-last]

A step begins with uint8 images, boxes, labels and outlines at network size (short side 320) and ends with the
updated weights: batch, targets, forward, backward, SGD. The twin (twins/condinst_training.py) is the same
network, losses and settings in plain eager PyTorch. First both take one step's losses and gradients from the
same weights, which must be equal; then they train in turns. Memory layouts are compared like with like:
--channels-last puts the weights of both into channels-last memory and the twin's pixels too,
--no-channels-last none of them; without either both are measured. Memory is that of a process of its own: the
peak while training above what was there when model, optimiser and data had been loaded.
"""

from __future__ import annotations

import argparse
import math
import subprocess
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import timing
import torch
from models import build_model
from scenes import Scene, scene
from twins.condinst_training import Objects, batch_of, bitmaps, twin_of

import instseg
from instseg import ops
from instseg.recipe import SolverRecipe
from instseg.training.optim import build_optimizer

PRESET = "condinst_MS_R_50_1x"
SIZE = (320, 480)
LAYOUTS = {False: "nchw", True: "channels-last"}
MIN_RATIO = {"cpu": 1.2, "cuda": 1.3}  # images a second
MAX_MEMORY_RATIO = {"cpu": 1.0, "cuda": 0.7}
MAX_LOSS_ERROR, MAX_GRADIENT_ERROR = 1e-4, 1e-3  # relative, in float32
MAX_ROUNDING_RATIO = 4.0  # of our distance from float64 to the twin's
RATE = 1e-5  # small enough that many steps on one batch stay finite


class Contestant(ABC):
    """One training loop; `losses` gives the terms of the batch, a call makes a whole step."""

    def __init__(self, network: torch.nn.Module, scenes: list[Scene], args: argparse.Namespace, last: bool):
        self.scenes, self.device, self.last = scenes, torch.device(args.device), last
        self.bf16 = args.precision == "bf16"
        layout = torch.channels_last if last else torch.preserve_format
        self.network: Any = network.to(self.device).to(memory_format=layout).train()  # type: ignore[call-overload]
        self.optimizer = build_optimizer(self.network, SolverRecipe(base_lr=RATE))
        self.images = [each.image for each in scenes]

    @abstractmethod
    def terms(self) -> dict[str, torch.Tensor]:
        """Loss terms by name, with gradient."""

    def losses(self) -> dict[str, torch.Tensor]:
        with self.autocast():
            return self.terms()

    def autocast(self) -> AbstractContextManager[Any]:
        return torch.autocast(self.device.type, torch.bfloat16) if self.bf16 else nullcontext()

    def __call__(self) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        torch.stack([term.float() for term in self.losses().values()]).sum().backward()
        self.optimizer.step()
        if self.device.type == "cuda":
            torch.cuda.synchronize()


class Ours(Contestant):
    def terms(self) -> dict[str, torch.Tensor]:
        batch = ops.make_batch([image.to(self.device) for image in self.images], self.network.config.input)
        return self.network.losses(batch, [each.targets() for each in self.scenes])


class Eager(Contestant):
    def __init__(self, network: instseg.Model, scenes: list[Scene], args: argparse.Namespace, last: bool):
        super().__init__(twin_of(network), scenes, args, last)
        self.mean = list(network.config.input.mean)

    def terms(self) -> dict[str, torch.Tensor]:
        pixels = batch_of([image.to(self.device) for image in self.images], self.mean, self.last)
        pixels = pixels.to(self.network.controller.weight.dtype)
        canvas = (int(pixels.shape[2]), int(pixels.shape[3]))
        objects = [
            Objects(
                each.boxes.to(self.device),
                each.labels.to(self.device),
                bitmaps(each.polygons, each.size, canvas).to(self.device),
            )
            for each in self.scenes
        ]
        return self.network.losses(pixels, objects)


KINDS: dict[str, Callable[..., Contestant]] = {"eager": Eager, "instseg": Ours}


def scenes_of(args: argparse.Namespace) -> list[Scene]:
    """Images of the batch: 7 to 10 objects in turn, not all of the canvas' size."""
    sizes = [(SIZE[0] - 8 * (i % 3), SIZE[1] - 16 * (i % 2)) for i in range(args.batch)]
    return [scene(*size, 7 + i % 4, seed=i) for i, size in enumerate(sizes)]


def contestant(kind: str, last: bool, args: argparse.Namespace) -> Contestant:
    return KINDS[kind](build_model(PRESET), scenes_of(args), args, last)


def gradients(run: Contestant) -> tuple[dict[str, float], dict[str, torch.Tensor]]:
    """Loss terms and gradients by name of one step; the same random subset of proposals for everyone."""
    torch.manual_seed(0)
    run.network.zero_grad(set_to_none=True)
    terms = run.losses()
    torch.stack([term.float() for term in terms.values()]).sum().backward()
    named = {n: p.grad.double().cpu() for n, p in run.network.named_parameters() if p.grad is not None}
    run.network.zero_grad(set_to_none=True)
    return {name: term.item() for name, term in terms.items()}, named


def difference(run: Contestant, reference: Contestant) -> dict[str, Any]:
    """Worst relative errors of a loss term and of a parameter's gradient, and that of the whole gradient."""
    (losses, slopes), (exact, exact_slopes) = gradients(run), gradients(reference)
    assert losses.keys() == exact.keys()
    assert slopes.keys() == exact_slopes.keys()
    wrong = {name: float((slopes[name] - slope).norm()) for name, slope in exact_slopes.items()}
    # Of a level without objects the gradient is 0.
    norms = {name: max(float(slope.norm()), 1e-30) for name, slope in exact_slopes.items()}
    worst = max(wrong, key=lambda name: wrong[name] / norms[name])
    return {
        "losses": losses,
        "loss_error": max(abs(losses[name] - value) / abs(value) for name, value in exact.items()),
        "gradient_error": math.hypot(*wrong.values()) / math.hypot(*norms.values()),
        "worst_parameter": worst,
        "worst_parameter_error": wrong[worst] / norms[worst],
        "parameters": len(norms),
    }


def text(error: dict[str, Any]) -> str:
    return (
        f"worst loss term {error['loss_error']:.1e}, gradient of {error['parameters']} parameters "
        f"{error['gradient_error']:.1e}, worst of one {error['worst_parameter_error']:.1e} "
        f"({error['worst_parameter']})"
    )


def check_exact(args: argparse.Namespace) -> tuple[dict[str, Any], dict[str, bool]]:
    """Both in float32 against the twin in float64, on one image."""
    single = argparse.Namespace(**{**vars(args), "batch": 1, "precision": "fp32"})
    exact = contestant("eager", False, single)
    exact.network.double()
    errors = {kind: difference(contestant(kind, True, single), exact) for kind in KINDS}
    for kind, error in errors.items():
        print(f"{kind} in float32 against the twin in float64, relative: {text(error)}")
    ours, theirs = errors["instseg"], errors["eager"]
    limit = max(MAX_ROUNDING_RATIO * theirs["gradient_error"], MAX_GRADIENT_ERROR / 10)
    return errors, {
        f"exact losses: {ours['loss_error']:.1e} <= {MAX_LOSS_ERROR}": ours["loss_error"] <= MAX_LOSS_ERROR,
        f"exact gradient: {ours['gradient_error']:.1e} <= {limit:.1e}": ours["gradient_error"] <= limit,
    }


def resident(field: str) -> float:
    """MiB of this process: VmRSS now, VmHWM at most."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(field))


def run_alone(kind: str, last: bool, args: argparse.Namespace) -> float:
    """MiB that three steps need above the loaded state."""
    run = contestant(kind, last, args)
    if run.device.type == "cuda":
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        for _ in range(3):
            run()
        return float((torch.cuda.max_memory_allocated() - before) / 2**20)
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM starts again from here
    start = resident("VmRSS")
    for _ in range(3):
        run()
    return resident("VmHWM") - start


def peak_alone(kind: str, last: bool, args: argparse.Namespace) -> float:
    command = [sys.executable, __file__, "--threads", str(args.threads), "--batch", str(args.batch)]
    command += ["--precision", args.precision, "--device", args.device, "--alone", kind, LAYOUTS[last]]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def run_layout(last: bool, args: argparse.Namespace) -> tuple[dict[str, Any], dict[str, bool]]:
    runs = {kind: contestant(kind, last, args) for kind in KINDS}
    same = difference(runs["instseg"], runs["eager"])
    name = LAYOUTS[last]
    print(f"\n{name}: {', '.join(f'{k} {v:.4f}' for k, v in same['losses'].items())}")
    print(f"difference, relative: {text(same)}")
    result: dict[str, Any] = {"agreement": same}
    claims = {}
    if args.precision == "fp32":
        error, slope = same["loss_error"], same["gradient_error"]
        claims[f"{name}: losses equal: {error:.1e} <= {MAX_LOSS_ERROR}"] = error <= MAX_LOSS_ERROR
        claims[f"{name}: gradients equal: {slope:.1e} <= {MAX_GRADIENT_ERROR}"] = slope <= MAX_GRADIENT_ERROR
    if args.check:
        return result, claims
    times = timing.measure(runs, args.repeats, warmup=2)
    memory = {kind: peak_alone(kind, last, args) for kind in KINDS}
    rates = {kind: args.batch / timing.median(values) * 1e3 for kind, values in times.items()}
    ratio, share = rates["instseg"] / rates["eager"], memory["instseg"] / memory["eager"]
    for kind in KINDS:
        rate = f"{rates[kind]:8.2f} images/s {memory[kind]:8.0f} MiB"
        print(f"{kind:10}{timing.spread(times[kind]):>32} a step {rate}")
    print(f"{'ratio':10}{'':39} {ratio:8.2f}          {share:8.2f}")
    result |= {
        "ms": times,
        "images_per_second": rates,
        "peak_mib": memory,
        "ratio": ratio,
        "memory_ratio": share,
    }
    kind = torch.device(args.device).type
    claims[f"{name}: {ratio:.2f} times the images/s >= {MIN_RATIO[kind]}"] = ratio >= MIN_RATIO[kind]
    claims[f"{name}: {share:.2f} of the memory <= {MAX_MEMORY_RATIO[kind]}"] = share <= MAX_MEMORY_RATIO[kind]
    return result, claims


def report(claims: dict[str, bool]) -> bool:
    for claim, holds in claims.items():
        print("PASS" if holds else "FAIL", claim)
    return all(claims.values())


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=8)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--channels-last", action=argparse.BooleanOptionalAction, default=None)
    parser.add_argument(
        "--check", action="store_true", help="compare losses and gradients only, also with float64"
    )
    parser.add_argument("--json", help="write the figures to this file")
    parser.add_argument("--alone", nargs=2, metavar=("CONTESTANT", "LAYOUT"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.alone:
        print(run_alone(args.alone[0], args.alone[1] == LAYOUTS[True], args))
        return 0
    settings = {"batch": args.batch, "size": SIZE, "precision": args.precision, "device": args.device}
    print(f"{PRESET}, {settings}, {timing.machine()}")
    results: dict[str, Any] = {}
    passed = True
    if args.check:
        results["float64"], claims = check_exact(args)
        passed = report(claims)
    for last in [False, True] if args.channels_last is None else [args.channels_last]:
        results[LAYOUTS[last]], claims = run_layout(last, args)
        passed &= report(claims)
    timing.save(args.json, {**settings, **results})
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
