# SPDX-License-Identifier: Apache-2.0
"""What do the targets and losses of a training step cost, without the network?

    python benchmarks/training_targets_losses.py [--threads 2] [--repeats 5] [--json FILE]

16 images of 800x1344, 20 outlined objects each, 22 400 locations each on P3 to P7, 80 classes: outlines to
masks, target assignment, focal, GIoU and centerness losses, and CondInst's mask loss of 500 locations, from
the network's outputs forward and back to their gradients. instseg's operations are called as its models call
them; the contestant does the same in plain PyTorch (twins/condinst_training.py), with tensors of locations x
objects. Extra memory is the growth of the resident set in one call, each in a process of its own. The share
of a training step is that of a step of 16 images, which is 16 times the time of one image's step without
targets and losses, plus theirs.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import timing
import torch
from models import build_model
from scenes import CLASSES, Scene, scene
from torch import Tensor
from torch.profiler import profile
from twins.condinst import aligned_bilinear, mask_heads, relative_coordinates
from twins.condinst_training import Assigned, Objects, assign_all, bitmaps, dice_loss, fcos_losses
from twins.fcos import LevelOutputs, Selected

import instseg
from instseg import ops

CANVAS, IMAGES, OBJECTS, PROPOSALS = (800, 1344), 16, 20, 500
SHAPES = [(100, 168), (50, 84), (25, 42), (13, 21), (7, 11)]  # of P3..P7
BOUNDS = [(-1, 64), (64, 128), (128, 256), (256, 512), (512, 1e8)]  # px
LOCATIONS = sum(height * width for height, width in SHAPES)
HEAD = ops.DynamicHead(depth=3, width=8)
MAX_SHARE = 0.1  # of a training step
MAX_ERROR = 1e-5  # relative, of a loss term
PARTS = ("targets", "all")
Terms = dict[str, Tensor]


class Outputs(NamedTuple):
    """What the network hands to targets and losses; all of it wants a gradient."""

    levels: list[LevelOutputs]  # channels-last
    features: Tensor  # [B, 8, h, w], of the masks
    parameters: Tensor  # [PROPOSALS, 169], of the mask heads

    def leaves(self) -> list[Tensor]:
        return [t for level in self.levels for t in level[:3]] + [self.features, self.parameters]


def outputs_of(images: int) -> Outputs:
    random = torch.Generator().manual_seed(0)

    def leaf(channels: int, shape: tuple[int, int], bias: float = 0.0, least: float | None = None) -> Tensor:
        x = torch.randn(images, channels, *shape, generator=random) + bias
        x = x if least is None else x.clamp(min=least)
        return x.contiguous(memory_format=torch.channels_last).requires_grad_()

    levels = [
        LevelOutputs(leaf(CLASSES, s, -4), leaf(4, s, 2, 0.1), leaf(1, s), torch.empty(0)) for s in SHAPES
    ]
    parameters = torch.randn(PROPOSALS, HEAD.parameters(8), generator=random) * 0.1
    return Outputs(levels, leaf(8, SHAPES[0]), parameters.requires_grad_())


def flat(maps: list[Tensor]) -> list[Tensor]:
    return [m.permute(0, 2, 3, 1).reshape(-1, m.shape[1]) for m in maps]


def instseg_targets(scenes: list[Scene]) -> tuple[ops.FcosTargets, list[ops.RasterizedMasks]]:
    targets = [
        ops.Targets(s.boxes, s.labels, ops.MaskTargets.from_coco([[p] for p in s.polygons], s.size))
        for s in scenes
    ]
    masks = [ops.rasterize(target.masks, CANVAS, 4, 2) for target in targets if target.masks is not None]
    levels = [
        ops.TargetLevel(ops.LocationGrid(*shape, 8 << i, 8 << i, 4 << i), 8 << i, *BOUNDS[i])
        for i, shape in enumerate(SHAPES)
    ]
    config = instseg.ModelConfig().targets
    return ops.fcos_targets(levels, targets, CLASSES, config, [m.centers for m in masks]), masks


def places(index: Tensor, images: int) -> tuple[Tensor, Tensor, Tensor]:
    """Level, image and cell of locations counted through all: levels outermost, then images."""
    sizes = torch.tensor([height * width for height, width in SHAPES])
    starts = torch.cat([torch.zeros(1, dtype=torch.int64), (sizes * images).cumsum(0)])
    level = torch.bucketize(index, starts, right=True) - 1
    within = index - starts[level]
    return level, within // sizes[level], within % sizes[level]


def instseg_losses(outputs: Outputs, scenes: list[Scene]) -> Terms:
    assigned, masks = instseg_targets(scenes)
    positive = (assigned.gt_index >= 0).nonzero()[:, 0]
    count = max(len(positive), 1)
    cls = torch.zeros(())
    begin = 0
    for logits in flat([level.logits for level in outputs.levels]):
        cls = cls + ops.sigmoid_focal_loss(logits, assigned.labels[begin : begin + len(logits)])
        begin += len(logits)
    reg = torch.cat(flat([level.regression for level in outputs.levels])).index_select(0, positive)
    quality = torch.cat(flat([level.centerness for level in outputs.levels])).index_select(0, positive)[:, 0]
    target = assigned.reg.index_select(0, positive)
    weight = ops.centerness_of(target)
    bce = torch.nn.functional.binary_cross_entropy_with_logits(quality, weight, reduction="sum")

    chosen = positive[torch.randperm(len(positive))[:PROPOSALS]]
    level, image, cell = places(chosen, len(scenes))
    widths = torch.tensor([width for _, width in SHAPES])[level]
    stride = 8 << level
    location = torch.stack([cell % widths, cell // widths], 1) * stride[:, None] + stride[:, None] // 2
    logits = ops.dynamic_mask_head(
        outputs.features,
        outputs.parameters[: len(chosen)],
        image,
        location.float(),
        (64 << level).float(),
        HEAD,
    )
    truth = torch.cat([m.sampled for m in masks])
    dice = ops.dice_loss(ops.aligned_bilinear(logits, 2), truth, assigned.gt_index[chosen])
    return {
        "loss_cls": cls / count,
        "loss_box": ops.box_loss(reg, target, weight) / weight.sum().clamp(min=1e-6),
        "loss_centerness": bce / count,
        "loss_mask": dice.mean(),
    }


def eager_targets(scenes: list[Scene]) -> tuple[Assigned, list[Objects]]:
    objects = [Objects(s.boxes, s.labels, bitmaps(s.polygons, s.size, CANVAS)) for s in scenes]
    return assign_all(SHAPES, objects, CLASSES), objects


def eager_losses(outputs: Outputs, scenes: list[Scene]) -> Terms:
    assigned, objects = eager_targets(scenes)
    terms = fcos_losses(outputs.levels, assigned)
    positive = (assigned.objects >= 0).nonzero()[:, 0]
    chosen = positive[torch.randperm(len(positive))[:PROPOSALS]]
    found = Assigned(*(values[chosen] for values in assigned))
    truth = torch.cat([image.bitmaps[:, 2::4, 2::4] for image in objects])
    height, width = SHAPES[0]
    losses = []
    for image in range(len(scenes)):
        here = (found.images == image).nonzero()[:, 0]
        cells = Selected(*[found.reg[here]] * 2, found.labels[here], found.levels[here], found.cells[here])
        coordinates = relative_coordinates(cells, [level.logits for level in outputs.levels], height, width)
        inputs = torch.cat([coordinates, outputs.features[image].expand(len(here), -1, -1, -1)], 1)
        masks = aligned_bilinear(mask_heads(inputs, outputs.parameters[here]), 2).sigmoid()
        losses.append(dice_loss(masks[:, 0], truth[found.objects[here]].float()))
    return {**terms, "loss_mask": torch.cat(losses).mean()}


LOSSES: dict[str, Callable[[Outputs, list[Scene]], Terms]] = {
    "eager": eager_losses,
    "instseg": instseg_losses,
}
TARGETS: dict[str, Callable[[list[Scene]], object]] = {"eager": eager_targets, "instseg": instseg_targets}


def call(name: str, part: str, images: int = IMAGES) -> Callable[[], object]:
    scenes = [scene(*CANVAS, OBJECTS, seed) for seed in range(images)]
    if part == "targets":
        return lambda: TARGETS[name](scenes)
    outputs = outputs_of(images)

    def run() -> Terms:
        torch.manual_seed(0)
        for leaf in outputs.leaves():
            leaf.grad = None
        terms = LOSSES[name](outputs, scenes)
        torch.stack(list(terms.values())).sum().backward()
        return terms

    return run


def resident(field: str) -> float:
    """MB of this process: VmRSS now, VmHWM at most."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith(field))


def probe(name: str, part: str) -> float:
    """Growth of the resident set in one call; code and threads are warmed up on one image."""
    call(name, part, 1)()
    run = call(name, part)
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM starts again from here
    before = resident("VmRSS")
    run()
    return resident("VmHWM") - before


def extra_memory(name: str, part: str, threads: int) -> float:
    command = [sys.executable, __file__, "--threads", str(threads), "--probe", name, part]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def largest_tensor(name: str) -> float:
    """MB of the largest allocation of the target assignment."""
    run = call(name, "targets")
    with profile(profile_memory=True) as record:
        run()
    events = record.profiler.kineto_results.events()  # type: ignore[union-attr]
    return max(event.nbytes() for event in events if event.name() == "[memory]") / 1e6


def step_seconds() -> float:
    """A training step of CondInst R-50 on one image, channels-last, the best of two after one to warm up."""
    model = build_model("condinst_MS_R_50_1x").train()
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 1e-5, momentum=0.9)
    image = scene(*CANVAS, OBJECTS, 0)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        terms = model.losses(ops.make_batch([image.image], model.config.input), [image.targets()])
        torch.stack(list(terms.values())).sum().backward()
        optimizer.step()

    return min(timing.measure({"step": step}, repeats=2, warmup=1)["step"]) / 1e3


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", help="write the figures to this file")
    parser.add_argument("--probe", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.probe:
        print(probe(*args.probe))
        return 0

    terms = {name: call(name, "all")() for name in LOSSES}
    error = max(
        float((terms["instseg"][key] - value).detach().abs() / value.detach().abs())  # type: ignore[index]
        for key, value in terms["eager"].items()  # type: ignore[attr-defined]
    )
    del terms
    rows = {}
    print(
        f"{IMAGES} images x {OBJECTS} objects x {LOCATIONS} locations, {PROPOSALS} masks, {timing.machine()}"
    )
    print(f"{'':10}{'eager':>30}{'instseg':>30}{'ratio':>8}{'extra MB':>20}")
    for part in PARTS:
        times = timing.measure({name: call(name, part) for name in LOSSES}, args.repeats, warmup=1)
        medians = {name: timing.median(values) for name, values in times.items()}
        memory = {name: extra_memory(name, part, args.threads) for name in LOSSES}
        rows[part] = {
            "ms": medians,
            "ratio": medians["eager"] / medians["instseg"],
            "extra_megabytes": memory,
        }
        eager, ours = (timing.spread(values) for values in times.values())
        change = "{:.1f} -> {:.1f}".format(*memory.values())
        print(f"{part:10}{eager:>30}{ours:>30}{rows[part]['ratio']:8.1f}{change:>20}")
    largest = {name: largest_tensor(name) for name in TARGETS}
    product = IMAGES * LOCATIONS * OBJECTS * 4 / 1e6
    one = timing.median(timing.measure({"one": call("instseg", "all", 1)}, args.repeats)["one"]) / 1e3
    own = rows["all"]["ms"]["instseg"] / 1e3  # type: ignore[index]
    step = IMAGES * (step_seconds() - one) + own
    print(f"largest tensor of the assignment, MB: {largest}; a float for each image, location and object is "
          f"{product:.1f}\na training step of {IMAGES} images: {step:.1f} s, of which targets and losses "
          f"{own:.2f} s; terms agree to {error:.1e}")  # fmt: skip
    growth = rows["targets"]["extra_megabytes"]["instseg"]  # type: ignore[index]
    passed = {
        f"no tensor of locations x objects: {largest['instseg']:.1f} MB < {product:.1f}": largest["instseg"]
        < product,
        f"nor anything that grows to it: {growth:.1f} MB < {product:.1f}": growth < product,
        f"share of a step {own / step:.3f} < {MAX_SHARE}": own / step < MAX_SHARE,
        f"same terms: {error:.1e} <= {MAX_ERROR}": error <= MAX_ERROR,
    }
    for claim, holds in passed.items():
        print("PASS" if holds else "FAIL", claim)
    figures = {"largest_megabytes": largest, "locations_x_objects_megabytes": product, "step_seconds": step}
    timing.save(args.json, {"rows": rows, **figures, "share": own / step, "relative_error": error})
    return 0 if all(passed.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
