# SPDX-License-Identifier: Apache-2.0
"""Evaluation in several processes."""

from __future__ import annotations

import gc
import json
import pickle
import sys

import noisy
import numpy as np
import pytest
import torch

import instseg
from instseg.data import CocoDataset
from instseg.evaluation import CocoEvaluator, evaluate

PREDICTOR = '''
import os
import numpy as np, torch
from types import SimpleNamespace
from instseg import Instances

class Scripted:
    """Finds boxes that depend on the pixels; ``fate`` is what happens at the third image of a process."""
    def __init__(self, fate=""):
        self.config = SimpleNamespace(
            class_names=["square", "round"], num_classes=2, post=SimpleNamespace(max_detections=100))
        self.fate, self.calls = fate, 0
    def __call__(self, pixels):
        self.calls += 1
        if self.calls == 3 and self.fate == "exit":
            os._exit(9)
        if self.calls == 3 and self.fate:
            raise ValueError("[Scripted] " + self.fate)
        rows, columns = np.nonzero(pixels.max(2) > 150)
        box = [float(columns.min()), float(rows.min()), float(columns.max()) + 1, float(rows.max()) + 1]
        boxes = torch.tensor([box, [5.0, 5.0, 30.0, 30.0]])
        scores = torch.tensor([float(pixels.mean()) / 255, 0.5])
        return Instances(boxes, scores, torch.tensor([0, 1]), pixels.shape[:2])
'''


@pytest.fixture
def scripted(tmp_path, monkeypatch):
    """A predictor that other processes can import."""
    folder = tmp_path / "module"
    folder.mkdir()
    (folder / "scripted_predictor.py").write_text(PREDICTOR)
    monkeypatch.syspath_prepend(folder)
    import scripted_predictor

    yield scripted_predictor.Scripted
    del sys.modules["scripted_predictor"]


@pytest.fixture
def dataset(make_dataset):
    return CocoDataset(*make_dataset(sizes=[(60, 80)] * 9, objects=2))


def test_three_processes_are_one(dataset, scripted):
    (dataset.image_dir / "4.png").write_bytes(b"")
    one = evaluate(scripted(), dataset)
    seen = []
    three = evaluate(scripted(), dataset, workers=3, progress=lambda *done: seen.append(done))
    assert seen == [(i, 9) for i in range(1, 10)]
    results = [result.pop("results") for result in (one, three)]
    assert one == three
    assert one["images"] == 8 and [p.image_id for p in one["problems"]] == [14] and one["AP"] > 0
    for name in ("precision", "recall", "scores"):
        np.testing.assert_array_equal(*(getattr(result["box"], name) for result in results))
    theirs = evaluate(scripted(), dataset, evaluator="pycocotools")
    assert theirs["detections"] == one["detections"]
    assert {k: v for k, v in theirs.items() if isinstance(v, float)} == {
        k: v for k, v in one.items() if isinstance(v, float)
    }


def test_more_workers_than_images(make_dataset, scripted):
    dataset = CocoDataset(*make_dataset(sizes=[(60, 80)]))
    assert evaluate(scripted(), dataset, workers=5)["images"] == 1


def test_a_dying_worker_is_one_line(dataset, scripted):
    with pytest.raises(RuntimeError, match=r"^\[evaluate\] worker \d of 2 ended with exit code 9 before its"):
        evaluate(scripted("exit"), dataset, workers=2)


def test_an_error_of_a_worker_is_raised(dataset, scripted):
    with pytest.raises(ValueError, match=r"^\[Scripted\] no such thing$"):
        evaluate(scripted("no such thing"), dataset, workers=2)


def test_what_cannot_be_sent(dataset, scripted):
    predictor = scripted()
    predictor.config.callback = lambda: None
    with pytest.raises(ValueError, match="cannot be sent to worker processes"):
        evaluate(predictor, dataset, workers=2)
    with pytest.raises(ValueError, match="workers must be a positive number of processes, got 0"):
        evaluate(predictor, dataset, workers=0)


def tiny_model():
    torch.manual_seed(0)
    model = instseg.Model(
        {
            "num_classes": 2,
            "class_names": ["square", "round"],
            "input": {"short_side": 64, "long_side": 96},
            "backbone": {"name": "resnet18", "norm": "bn_eval", "freeze": 0, "stride_in_1x1": False},
            "neck": {"channels": 32, "max_level": 5},
            "head": {"cls_convs": 1, "box_convs": 1, "prior_prob": 0.3},
            "targets": {"sizes_of_interest": [32, 64]},
        }
    )
    with torch.no_grad():
        for name in ("cls_logits", "centerness", "box_pred"):
            model.get_parameter(f"head.{name}.weight").mul_(40)
    return model


def test_predictors_are_pickled(tmp_path):
    model = tiny_model()
    pixels = np.random.default_rng(0).integers(0, 255, (64, 96, 3), dtype=np.uint8)
    expected = instseg.Predictor(model, score_threshold=0.2)(pixels)
    assert len(expected)
    model.save(tmp_path / "model.safetensors")
    for source in (model, tmp_path / "model.safetensors"):
        copy = pickle.loads(pickle.dumps(instseg.Predictor(source, score_threshold=0.2)))
        assert torch.equal(copy(pixels).boxes, expected.boxes)
    lone = instseg.Predictor(tiny_model())
    gc.collect()
    with pytest.raises(TypeError, match="its Model is gone"):
        pickle.dumps(lone)


def test_masks_of_a_document_and_of_a_dataset(tmp_path):
    """A CocoDataset and its file say the same; objects without a mask count for boxes alone."""
    truth = noisy.document(13, images=3)
    path = tmp_path / "truth.json"
    path.write_text(json.dumps(truth))
    rows = noisy.detections(truth, 1, 10)
    dataset = CocoDataset(path, tmp_path, masks=True)
    evaluators = CocoEvaluator(path), CocoEvaluator(dataset)
    for evaluator in evaluators:
        for image in truth["images"]:
            evaluator.add(image["id"], [row for row in rows if row["image_id"] == image["id"]])
    assert evaluators[0].compute() == evaluators[1].compute()
