# SPDX-License-Identifier: Apache-2.0
"""Finds out from names and shapes what a checkpoint is, or asks."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace

from instseg.importers import adelaidet, maskrcnn_benchmark, mmdet, solo, torchvision
from instseg.importers.containers import Checkpoint
from instseg.importers.names import NameTable
from instseg.importers.structure import Config, Layout, Structure, refuse_unsupported


@dataclass(frozen=True)
class Flavor:
    """A naming scheme of detector checkpoints."""

    name: str
    table: Callable[[Layout], NameTable]
    canonical: Callable[[str], str] = str
    signature: tuple[str, ...] = ()
    """Raw names, one of which every checkpoint of an FCOS-based model of this flavor has."""
    solo_signature: tuple[str, ...] = ()
    """The same of SOLO models."""
    layout: Layout = field(default_factory=Layout)
    """Of the file at hand."""

    def ours(self, name: str) -> str | None:
        """Our name for a name in the file."""
        return self.table(self.layout).ours(self.canonical(name))


FLAVORS = {
    flavor.name: flavor
    for flavor in (
        Flavor(
            "adelaidet",
            lambda layout: solo.ADELAIDET if layout.solo else adelaidet.table(layout.mask_convs),
            adelaidet.canonical,
            ("proposal_generator.fcos_head.cls_logits.weight",),
            ("ins_head.cate_pred.weight",),
        ),
        Flavor(
            "torchvision",
            lambda _: torchvision.TABLE,
            torchvision.canonical,
            ("head.classification_head.cls_logits.weight",),
        ),
        Flavor(
            "mmdet",
            lambda layout: solo.MMDET if layout.solo else mmdet.TABLE,
            mmdet.canonical,
            ("bbox_head.conv_cls.weight", "bbox_head.fcos_cls.weight"),
            ("mask_head.conv_cls.weight",),
        ),
        Flavor(
            "maskrcnn_benchmark",
            lambda _: maskrcnn_benchmark.TABLE,
            maskrcnn_benchmark.canonical,
            ("rpn.head.cls_logits.weight",),
        ),
        Flavor(
            "solo",
            lambda layout: solo.repository(layout.decoupled),
            solo_signature=("bbox_head.solo_cate.weight", "bbox_head.dsolo_cate.weight"),
        ),
    )
}

# Flavors whose files hold mmdetection's configuration text.
_OF_MMDETECTION = ("mmdet", "solo")

_BACKBONE_SIGNS = ("_conv_stem.weight", "res2_0_branch2a_w", "layer1.0.conv1.weight", "res2.0.conv1.weight")


# Parts that no classifier has ("_conv_head" is EfficientNet's last convolution).
_DETECTOR_PART = re.compile(
    r"(^|\.)(rpn\w*|roi_heads?|proposal_generator|neck|fpn\w*|head|\w*(bbox|mask|cls|box)_heads?)\."
    r"|^(conv_)?(rpn|fpn|retnet)_|^(cls_score|bbox_pred)_"
)


def is_backbone(names: Iterable[str]) -> bool:
    """Whether these are the names of an ImageNet classifier: a backbone and no part of a detector."""
    names = set(names)
    known = any(name.endswith(sign) for name in names for sign in _BACKBONE_SIGNS)
    return known and not any(_DETECTOR_PART.search(name) for name in names)


def find_flavor(names: Iterable[str]) -> Flavor:
    """The naming scheme of a detector checkpoint; ValueError saying what the file is instead."""
    names = set(names)
    refuse_unsupported(sorted(names))
    found: list[Flavor] = []
    shown: list[str] = []
    for flavor in FLAVORS.values():
        for signature in (flavor.signature, flavor.solo_signature):
            present = names.intersection(signature)
            if present:
                found.append(replace(flavor, layout=_layout(names, signature is flavor.solo_signature)))
                shown.append(f"{flavor.name} ('{min(present)}')")
    if len(found) > 1:
        raise ValueError(
            f"mixes the names of several models, {' and '.join(shown)}; save the state dict of one"
        )
    if found:
        return found[0]
    if {"head.cls_logits.weight", "backbone.stem.weight"} <= names:
        raise ValueError("is an instseg model already; use it as it is")
    if is_backbone(names):
        raise ValueError(
            "holds a classification backbone and no detector; which model shall it be the backbone of? "
            "Answer with --preset NAME (preset=... in Python)"
        )
    some = ", ".join(sorted(names)[:4])
    raise ValueError(f"has names of no detector this program knows, such as {some}")


def _layout(names: set[str], is_solo: bool) -> Layout:
    if is_solo:
        return Layout(solo=True, decoupled="bbox_head.dsolo_cate.weight" in names)
    return Layout(mask_convs=adelaidet.mask_convs(names))


@dataclass(frozen=True)
class Candidate:
    """A preset that a checkpoint may belong to."""

    name: str
    flavor: str
    config: Config


_INSTSEG = "instseg"


def _flavor_of_preset(name: str, config: Config) -> str:
    for prefix, flavor in (("torchvision_", "torchvision"), ("mmdet_", "mmdet"), ("adet_", "adelaidet")):
        if name.startswith(prefix):
            return flavor
    if not config["backbone"]["name"].startswith("resnet"):
        return _INSTSEG
    return "solo" if config["family"] == "solo" else "adelaidet"


def _maskrcnn_benchmark_variants(base: Config) -> list[Candidate]:
    """The first FCOS implementation, before and after its improvements; it clips before NMS."""
    improved = deepcopy(base)
    improved["input"]["mean"] = [102.9801, 115.9465, 122.7717]
    improved["loss"]["iou_smoothing"] = 1.0
    improved["post"].update(clip_before_nms=True)
    plain = deepcopy(improved)
    plain["head"].update(centerness_on="cls", box_transform="exp", stride_units=False)
    plain["targets"]["center_radius"] = 0.0
    plain["loss"]["box_loss"] = "iou"
    flavor = "maskrcnn_benchmark"
    return [
        Candidate("maskrcnn_benchmark_fcos", flavor, plain),
        Candidate("maskrcnn_benchmark_fcos_imprv", flavor, improved),
    ]


def candidates() -> list[Candidate]:
    """Every preset, and the variants that exist only as imports."""
    from instseg._C import presets

    found = []
    for preset in presets():
        config: Config = preset.config.to_dict()
        found.append(Candidate(preset.name, _flavor_of_preset(preset.name, config), config))
        if preset.name == "fcos_R_50_1x":
            variants = _maskrcnn_benchmark_variants(config)
    return found + variants


def choose(checkpoint: Checkpoint, flavor: Flavor, preset: str | None) -> tuple[str, Config, list[str]]:
    """
    Preset name, configuration and notes for a checkpoint.

    The configuration has the file's backbone, number of classes and class names. Raises ValueError when
    ``preset`` contradicts the file, and when it is None although several presets with different
    configurations fit: then the message is a question answered by ``--preset``.
    """
    shapes = _our_shapes(checkpoint, flavor)
    structure = Structure.of_names(shapes)
    everything = candidates()
    notes: list[str] = []
    if preset is None:
        chosen = _find(structure, _hinted(checkpoint, flavor, everything), flavor.name, notes)
    else:
        chosen = _named(preset, everything)
        _agree(chosen, structure, flavor)
    config = deepcopy(chosen.config)
    if flavor.name in _OF_MMDETECTION:
        notes += mmdet.configure(config, checkpoint.meta, asked=preset is not None)
    if config["backbone"]["name"] != structure.backbone:
        notes.append(
            f"backbone is {structure.backbone}, preset {chosen.name} has {config['backbone']['name']}"
        )
        config["backbone"]["name"] = structure.backbone
    classes = shapes.get("head.cls_logits.weight", (config["num_classes"],))[0]
    notes += _set_classes(config, classes, mmdet.class_names(checkpoint.meta))
    notes += _set_semantic(config, shapes)
    return chosen.name, config, notes


def _our_shapes(checkpoint: Checkpoint, flavor: Flavor) -> dict[str, tuple[int, ...]]:
    pairs = ((flavor.ours(name), tensor.shape) for name, tensor in checkpoint.state.items())
    return {name: shape for name, shape in pairs if name is not None}


def _hinted(checkpoint: Checkpoint, flavor: Flavor, pool: Sequence[Candidate]) -> list[Candidate]:
    """``pool`` without what mmdetection's stored configuration text rules out."""
    improved = mmdet.is_improved(checkpoint.meta) if flavor.name == "mmdet" else None
    if improved is None:
        return list(pool)
    return [
        c
        for c in pool
        if c.config["family"] != "fcos" or (c.config["head"]["centerness_on"] == "box") == improved
    ]


def _named(preset: str, pool: Sequence[Candidate]) -> Candidate:
    from instseg._C import find_preset

    for candidate in pool:
        if candidate.name == preset:
            return candidate
    find_preset(preset)  # raises, with close names
    raise ValueError(f"[convert] no preset '{preset}'")


def _agree(chosen: Candidate, structure: Structure, flavor: Flavor) -> None:
    if chosen.flavor != flavor.name:
        fitting = ", ".join(c.name for c in candidates() if c.flavor == flavor.name)
        raise ValueError(
            f"has {flavor.name} names, but preset {chosen.name} is of {chosen.flavor} weights; use "
            f"one of {fitting}"
        )
    wanted = Structure.of_config(chosen.config)
    if wanted.without_backbone() != structure.without_backbone():
        raise ValueError(f"does not fit preset {chosen.name}: the file has {structure}; the preset {wanted}")


def _find(structure: Structure, pool: Sequence[Candidate], flavor: str, notes: list[str]) -> Candidate:
    pool = [c for c in pool if c.flavor == flavor]
    exact = [c for c in pool if Structure.of_config(c.config) == structure]
    fitting = exact or [
        c for c in pool if Structure.of_config(c.config).without_backbone() == structure.without_backbone()
    ]
    if not fitting:
        raise ValueError(
            f"fits no preset of {flavor} weights: it has {structure}; pass a configuration to "
            "instseg.convert(preset=...)"
        )
    if not exact:
        for candidate in fitting:
            candidate.config["backbone"]["name"] = structure.backbone
    differing = [name for name in _differences([c.config for c in fitting]) if name not in _CLASS_FIELDS]
    if differing:
        raise ValueError(
            f"which model is it: {_or(c.name for c in fitting)}? They differ in "
            f"{', '.join(differing)}, which the "
            "weights do not show; answer with --preset NAME (preset=... in Python)"
        )
    twins = [c.name for c in fitting if c.config == fitting[0].config]
    if len(twins) > 1:
        notes.append(f"the weights do not show whether they are of {_or(twins)}, which are the same model")
    return fitting[0]


def _or(names: Iterable[str]) -> str:
    *first, last = names
    return f"{', '.join(first)} or {last}" if first else last


def _flat(config: Mapping[str, object]) -> dict[str, object]:
    flat: dict[str, object] = {}
    for key, value in config.items():
        if isinstance(value, dict):
            flat.update({f"{key}.{name}": inner for name, inner in _flat(value).items()})
        else:
            flat[key] = value
    return flat


def _differences(configs: Sequence[Config]) -> list[str]:
    """Fields in which the configurations differ."""
    flats = [_flat(config) for config in configs]
    return [key for key, value in flats[0].items() if any(flat[key] != value for flat in flats[1:])]


# Decided by the file, see _set_classes.
_CLASS_FIELDS = ("num_classes", "class_names", "category_ids")


def _set_semantic(config: Config, shapes: Mapping[str, tuple[int, ...]]) -> list[str]:
    """Drops BlendMask's auxiliary task where the file has no layers for it, or those of other classes."""
    if config["family"] != "blendmask" or not config["blendmask"]["semantic"]:
        return []
    outputs = shapes.get("basis_module.seg_logits.weight", (0,))[0]
    if outputs == config["num_classes"] + 1:
        return []
    config["blendmask"]["semantic"] = False
    have = f"those for {outputs - 1} classes" if outputs else "none"
    return [
        f"blendmask.semantic is false: of the layers of that task, which is for training, the file has {have}"
    ]


def _set_classes(config: Config, classes: int, stored: list[str]) -> list[str]:
    """Puts the number and names of classes into ``config``; notes what changed."""
    notes = []
    if classes != config["num_classes"]:
        notes.append(
            f"the file has {classes} classes, the preset {config['num_classes']}; class names were dropped"
        )
        config.update(num_classes=classes, class_names=[], category_ids=[])
    if len(stored) == classes and len(set(stored)) == classes and all(stored):
        plain = [name.replace("_", " ") for name in stored]
        if plain != config["class_names"]:
            notes.append("class names were taken from the file")
            config.update(class_names=stored, category_ids=[])
    return notes
