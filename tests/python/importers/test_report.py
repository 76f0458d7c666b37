# SPDX-License-Identifier: Apache-2.0
"""The report says what happened, to people and to programs."""

from __future__ import annotations

import json

from instseg.importers import Report


def example() -> Report:
    return Report(
        source="x.pth",
        container="torch zip",
        flavor="adelaidet",
        preset="fcos_R_50_1x",
        matched={"backbone.fpn_lateral3.bias": "neck.lateral3.bias"},
        missing=[f"head.scales.{i}" for i in range(10)],
        unexpected=["a"],
        ignored=["pixel_mean"],
        notes=["1 tensor was cast"],
    )


def test_dictionary_is_json_with_every_field() -> None:
    report = example()
    found = json.loads(json.dumps(report.to_dict()))
    assert found == report.to_dict()
    assert found["ok"] is False and found["matched"] == {"backbone.fpn_lateral3.bias": "neck.lateral3.bias"}
    assert set(found) == {
        *(
            "source",
            "container",
            "flavor",
            "preset",
            "matched",
            "missing",
            "unexpected",
            "ignored",
            "notes",
            "ok",
        )
    }


def test_text() -> None:
    lines = str(example()).splitlines()
    assert lines[0] == "x.pth: torch zip, adelaidet names"
    assert "  preset      fcos_R_50_1x" in lines
    assert "  matched     1" in lines
    assert any(
        line.startswith("  missing     10  (head.scales.0, ") and "and 2 more" in line for line in lines
    )
    assert "  unexpected  1  (a)" in lines and "  ignored     1  (pixel_mean)" in lines
    assert lines[-1] == "  note: 1 tensor was cast"


def test_ok_and_problem() -> None:
    assert Report().ok and Report(ignored=["x"]).ok and Report().problem() == ""
    assert not Report(missing=["a"]).ok and not Report(unexpected=["a"]).ok
    assert Report(missing=["a"]).problem() == "1 parameter of the model got no value: a"
    assert "\n" not in example().problem()
