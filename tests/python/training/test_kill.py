# SPDX-License-Identifier: Apache-2.0
"""kill -9 at any moment, also while a checkpoint is written: the run goes on as if nothing had happened."""

from __future__ import annotations

import re

import torch
from processes import job, start
from training_helpers import log_of, recipe_of

from instseg import Model
from instseg.training.checkpoint import list_checkpoints, load_checkpoint

KILLS = 10


def test_ten_kills_change_nothing(make_dataset, tmp_path):
    files = make_dataset()
    changes = {
        "solver__iterations": 20,
        "model__backbone": {"norm": "bn"},
        "data__short_sides": [32, 48],
        "solver__ema_decay": 0.9,
        "solver__clip_norm": 1.0,
    }
    whole = recipe_of(files, **changes)
    killed = recipe_of(files, **changes, checkpoint_every=1)
    phases = [
        {"world": 1, "jobs": [job(whole, tmp_path / "whole")]},
        {"jobs": [job(killed, tmp_path / "killed")], "kills": KILLS, "seed": 3},
    ]
    (first, (*seen, last)) = start(phases, tmp_path)
    assert first == ["done"] and last == "done" and len(seen) == KILLS
    assert not any("model.safetensors" in names.split() for names in seen), "a kill came too late"
    assert any(re.search(r"checkpoint_\d+\.tmp", names) for names in seen), "no kill came in time"
    assert not [path for path in (tmp_path / "killed").iterdir() if ".tmp" in path.name]

    assert len(log_of(tmp_path / "whole")) == 20
    assert log_of(tmp_path / "killed") == log_of(tmp_path / "whole")
    states = [Model.load(tmp_path / name / "model.safetensors").state_dict() for name in ("whole", "killed")]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    for path in list_checkpoints(tmp_path / "killed"):
        load_checkpoint(path)
