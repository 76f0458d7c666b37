# SPDX-License-Identifier: Apache-2.0
"""Checkpoint files: atomic, pruned, safe to read."""

from __future__ import annotations

import pickle
import random
from pathlib import Path

import pytest
import torch

from instseg.training.checkpoint import (
    Checkpoint,
    differences,
    list_checkpoints,
    load_checkpoint,
    random_state,
    restore_random_state,
    save_checkpoint,
)


def checkpoint(iteration: int) -> Checkpoint:
    return Checkpoint(
        iteration,
        {"w": torch.full((2,), float(iteration))},
        {"state": {0: {"momentum_buffer": torch.ones(2)}}, "param_groups": [{"lr": 0.1, "params": [0]}]},
        random_state(),
        {"name": "x", "solver": {"base_lr": 0.1}},
        {"head": {"norm": "gn"}},
        {"best": None, "seconds": 1.5},
    )


def test_round_trip(tmp_path: Path):
    saved = checkpoint(7)
    loaded = load_checkpoint(save_checkpoint(tmp_path, saved, keep=2))
    assert loaded.iteration == 7 and torch.equal(loaded.model["w"], saved.model["w"])
    assert (loaded.recipe, loaded.config, loaded.progress) == (saved.recipe, saved.config, saved.progress)
    assert torch.equal(loaded.optimizer["state"][0]["momentum_buffer"], torch.ones(2))


def test_random_state_is_restored(tmp_path: Path):
    path = save_checkpoint(tmp_path, checkpoint(1), keep=1)
    first = torch.rand(3), random.random()
    restore_random_state(load_checkpoint(path).random)
    second = torch.rand(3), random.random()
    assert torch.equal(first[0], second[0]) and first[1] == second[1]


def test_only_the_newest_are_kept(tmp_path: Path):
    (tmp_path / "notes.pt").write_text("mine")
    for iteration in (5, 10, 12345678):
        save_checkpoint(tmp_path, checkpoint(iteration), keep=2)
    names = [path.name for path in list_checkpoints(tmp_path)]
    assert names == ["checkpoint_0000010.pt", "checkpoint_12345678.pt"]
    assert sorted(path.name for path in tmp_path.iterdir()) == [*names, "notes.pt"]


def test_damaged_later_files_go_rather_than_good_ones(tmp_path: Path):
    save_checkpoint(tmp_path, checkpoint(1000), keep=1)
    (tmp_path / "checkpoint_0002000.pt").write_bytes(b"damaged")
    (tmp_path / "checkpoint_0003000.pt").write_bytes(b"damaged")
    save_checkpoint(tmp_path, checkpoint(1500), keep=2)
    assert [path.name for path in list_checkpoints(tmp_path)] == [
        "checkpoint_0001000.pt",
        "checkpoint_0001500.pt",
    ]


def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path: Path, monkeypatch):
    path = save_checkpoint(tmp_path, checkpoint(5), keep=2)
    before = path.read_bytes()

    def fail(values, file):
        file.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(OSError, match="disk full"):
        save_checkpoint(tmp_path, checkpoint(5), keep=2)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


class Evil:
    def __reduce__(self):
        return (exec, ("raise SystemExit('executed')",))


@pytest.mark.parametrize(
    "content", [b"", b"no checkpoint", pickle.dumps(Evil(), 2), pickle.dumps({"format": 1}, 2)], ids=range(4)
)
def test_other_files_are_refused(tmp_path: Path, content: bytes):
    path = tmp_path / "checkpoint_0000001.pt"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="is not a readable checkpoint") as caught:
        load_checkpoint(path)
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)


def test_truncated_and_newer_files_are_refused(tmp_path: Path):
    path = save_checkpoint(tmp_path, checkpoint(1), keep=1)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match="is not a readable checkpoint"):
        load_checkpoint(path)
    torch.save({"format": 2, **vars(checkpoint(1))}, path)
    with pytest.raises(ValueError, match="has format 2, this version reads 1"):
        load_checkpoint(path)
    with pytest.raises(OSError):
        load_checkpoint(tmp_path / "none.pt")


def test_differences_are_dotted():
    old, new = {"a": 1, "b": {"c": [1], "d": 2}}, {"a": 1, "b": {"c": [2], "d": 2}, "e": 3}
    assert differences(old, new) == ["b.c: [1] -> [2]", "e: None -> 3"]
