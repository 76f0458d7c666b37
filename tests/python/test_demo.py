# SPDX-License-Identifier: Apache-2.0
"""demo/demo.py fails when the trained model is not accurate."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

DEMO = Path(__file__).parents[2] / "demo"


@pytest.mark.parametrize(("ap50", "code"), [(0.2, 1), (0.549, 1), (0.55, 0), (0.9, 0)])
def test_exit_code(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    ap50: float,
    code: int,
) -> None:
    monkeypatch.syspath_prepend(str(DEMO))
    monkeypatch.delitem(sys.modules, "demo", raising=False)
    monkeypatch.chdir(tmp_path)  # main changes the folder; this restores it
    import demo

    def numbers(*_: Any) -> dict[str, float]:
        names = ("AP", "AP50", "AP75", "APs", "APm", "APl")
        others = dict.fromkeys([*names, *(f"mask_{name}" for name in names)], 0.5)
        return {**others, "mask_AP50": ap50}

    sheet = SimpleNamespace(save=lambda *_, **__: None)
    for name, value in {
        "train": lambda *_, **__: "model.safetensors",
        "evaluate": numbers,
        "run_python": lambda *_: {},
        "run_native": lambda *_: {},
        "report_agreement": lambda *_: True,
        "varied_images": lambda *_: [],
        "contact_sheet": lambda *_: sheet,
    }.items():
        monkeypatch.setattr(demo, name, value)
    monkeypatch.setattr(demo.instseg, "Predictor", lambda *_: None)
    monkeypatch.setattr(sys, "argv", ["demo.py", "--output", str(tmp_path)])
    assert demo.main() == code
    assert ("below 0.55" in capsys.readouterr().err) == (code == 1)
