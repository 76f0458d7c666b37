# SPDX-License-Identifier: Apache-2.0
"""Trainings in processes of their own: ``python processes.py PLAN`` imports once and forks for each of them.

The plan is a JSON file with "phases", one after the other. In each, "world" workers do the "jobs" ("recipe"
and "folder"); an "event" raises an error or sends SIGTERM in one worker before an iteration. A phase with
"kills" kills its single worker so many times, every other time while it writes a checkpoint.
"""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch.utils.tensorboard  # noqa: F401  (once, not in each process)

from instseg.recipe import Recipe, parse_recipe
from instseg.training import Trainer
from instseg.training.workers import Workers


def start(phases: list[dict[str, Any]], folder: Path, timeout: float = 1200) -> list[list[str]]:
    """Carries out phases in another interpreter; for each, what became of its workers."""
    path = folder / "plan.json"
    path.write_text(json.dumps({"phases": phases}))
    command = [sys.executable, __file__, str(path)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=timeout)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def job(recipe: Recipe, folder: Path) -> dict[str, Any]:
    return {"recipe": recipe.model_dump(mode="json"), "folder": str(folder)}


def _free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def _arrange(event: dict[str, Any]) -> None:
    real = Trainer.step

    def step(self, batch):
        if batch.iteration == event["iteration"]:
            if event["kind"] == "raise":
                raise ValueError("something is wrong here")
            os.kill(os.getpid(), signal.SIGTERM)
        return real(self, batch)

    Trainer.step = step


def _work(phase: dict[str, Any], report: Path) -> None:
    text = "done"
    try:
        with Workers.join() as workers:
            if "event" in phase and phase["event"]["rank"] == workers.rank:
                _arrange(phase["event"])
            for one in phase["jobs"]:
                Trainer(parse_recipe(one["recipe"]), one["folder"], quiet=True, workers=workers).run()
    except BaseException as error:
        text = f"{type(error).__name__}: {error}"
    report.write_text(text)


def _forked(phase: dict[str, Any], report: Path, environment: dict[str, str]) -> int:
    child = os.fork()
    if child:
        return child
    os.environ.update(environment)
    try:
        _work(phase, report)
    finally:
        os._exit(0)


def _together(phase: dict[str, Any], folder: Path) -> list[str]:
    world, reports, children = phase["world"], [], []
    common = {"WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port())}
    for rank in range(world):
        reports.append(folder / f"report_{rank}.txt")
        environment = {**common, "RANK": str(rank), "LOCAL_RANK": str(rank)}
        children.append(_forked(phase, reports[-1], environment))
    for child in children:
        os.waitpid(child, 0)
    return [report.read_text() for report in reports]


def _killed(phase: dict[str, Any], folder: Path) -> list[str]:
    """What lay in the run's folder after each kill, and how the last worker ended."""
    run, chance, seen = Path(phase["jobs"][0]["folder"]), random.Random(phase["seed"]), []
    report = folder / "report.txt"

    def names(pattern: str) -> set[str]:
        return {path.name for path in run.glob(pattern)}

    for number in range(phase["kills"]):
        before, patience = names("checkpoint_*.pt"), time.monotonic() + 60
        child = _forked(phase, report, {})
        wanted = chance.randrange(2)
        while len(names("checkpoint_*.pt") - before) < wanted and time.monotonic() < patience:
            time.sleep(0.001)
        if number % 2:
            while not names("checkpoint_*.tmp*") and time.monotonic() < patience:
                time.sleep(0.0005)
        time.sleep(chance.uniform(0, 0.02 if number % 2 else 0.3))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        seen.append(" ".join(sorted(names("*"))))
    os.waitpid(_forked(phase, report, {}), 0)
    return [*seen, report.read_text()]


def main(path: Path) -> None:
    outcome = []
    for phase in json.loads(path.read_text())["phases"]:
        outcome.append((_killed if "kills" in phase else _together)(phase, path.parent))
    print(json.dumps(outcome))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
