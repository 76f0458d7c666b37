# SPDX-License-Identifier: Apache-2.0
"""Help pages, usage errors and exit codes common to all commands."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from cli_helpers import Run

import instseg

COMMANDS = (
    ("train",),
    ("eval",),
    ("predict",),
    ("convert",),
    ("info",),
    ("models",),
    ("data",),
    ("data", "check"),
)


def test_help_of_the_program(run: Run) -> None:
    result = run("--help")
    assert result.code == 0 and result.err == ""
    for command in ("train", "eval", "predict", "convert", "info", "models", "data"):
        assert re.search(rf"^  {command} ", result.out, re.M), command
    assert "Examples:" in result.out


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_help_of_a_command_has_an_example(run: Run, command: tuple[str, ...]) -> None:
    result = run(*command, "--help")
    assert result.code == 0 and result.err == ""
    example = "instseg data check" if command == ("data",) else f"instseg {' '.join(command)}"
    lines = result.out[result.out.index("Examples:") :].splitlines()
    assert any(line.strip().startswith(example) for line in lines)


def test_no_arguments_show_the_help(run: Run) -> None:
    result = run()
    assert result.code == 2
    assert result.err.startswith("Usage: instseg")


def test_version(run: Run) -> None:
    result = run("--version")
    assert result.code == 0
    assert result.out == f"instseg {instseg.__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("nope",), "nope"),
        (("predict",), "MODEL"),
        (("predict", "m", "a.jpg", "--scoer", "1"), "--scoer"),
        (("predict", "m", "a.jpg", "--score", "high"), "--score"),
        (("predict", "m", "a.jpg", "--score", "1.5"), "1.5"),
        (("predict", "m", "a.jpg", "--score", "nan"), "nan"),
        (("predict", "m", "a.jpg", "--device", "tpu"), "tpu"),
        (("predict", "m", "a.jpg", "--precision", "int8"), "int8"),
        (("predict", "m", "a.jpg", "--pixel-limit", "0"), "--pixel-limit"),
        (("eval", "m", "--images", "x"), "--annotations"),
        (("eval", "m", "--annotations", "a", "--images", "x", "--device", "gpu"), "gpu"),
        (("train", "nuclei_efficientnet_lite0"), "--output"),
        (("train", "no_such_recipe", "--output", "o"), "no_such_recipe"),
        (("train", "missing.yaml", "--output", "o"), "missing.yaml"),
        (("train", "nuclei_efficientnet_lite0", "seed", "--output", "o"), "seed"),
        (("train", "nuclei_efficientnet_lite0", "solver.lr=1", "--output", "o"), "solver.lr"),
        (("data", "check", "only.json"), "IMAGES"),
        (("data", "nope"), "nope"),
    ],
)
def test_usage_errors(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], expected: str
) -> None:
    monkeypatch.chdir(tmp_path)
    result = run(*arguments)
    assert result.code == 2
    assert result.out == ""
    assert len(result.err.splitlines()) == 1 and len(result.errors) == 1
    assert expected in result.err
    assert list(tmp_path.iterdir()) == []


def test_as_a_program() -> None:
    command = [sys.executable, "-m", "instseg.cli", "predict", "missing.safetensors", "missing.jpg"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert result.returncode == 1
    assert result.stderr == "instseg: error: model file 'missing.safetensors' does not exist\n"
    assert result.stdout == ""


def test_traceback_on_request(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INSTSEG_TRACEBACK", "1")
    with pytest.raises(OSError, match="does not exist"):
        run("info", "missing.safetensors")


def test_interrupt(tmp_path: Path, dataset: tuple[Path, Path]) -> None:
    annotations, images = dataset
    recipe = tmp_path / "endless.yaml"
    recipe.write_text(
        f"model: {{backbone: {{name: resnet18, norm: bn_eval, freeze: 0}}, neck: {{channels: 32}}}}\n"
        f"data:\n  train: {{annotations: {annotations}, images: {images}}}\n"
        f"  short_sides: [64]\n  long_side: 96\n  workers: 0\n"
        f"solver: {{batch_size: 1, iterations: 1000000}}\nlog_every: 1\ndevice: cpu\n"
    )
    output = tmp_path / "run"
    command = [sys.executable, "-m", "instseg.cli", "train", str(recipe), "--output", str(output)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        log = output / "log.csv"
        for _ in range(600):
            if process.poll() is not None or (log.is_file() and len(log.read_text().splitlines()) > 1):
                break
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    assert "Traceback" not in err
    assert err.splitlines()[-1] == "instseg: error: interrupted"
