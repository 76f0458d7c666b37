# SPDX-License-Identifier: Apache-2.0
"""Keeps what a training run reached: figures, settings and curves, without its weights.

    python benchmarks/training_record.py runs/mine benchmarks/results/mine

writes benchmarks/results/mine.json (recipe, time, machine, loss and AP by iteration, last figures) and
benchmarks/results/mine.svg (the curves). The run's folder is that of `instseg train --output`.
"""

from __future__ import annotations

import argparse
import csv
import json
from pathlib import Path
from typing import Any

import timing

WIDTH, HEIGHT, MARGIN = 640, 320, 44  # px
CURVES = (
    ("total", "loss", "#888888"),
    ("AP50", "box AP50", "#1f77b4"),
    ("mask_AP50", "mask AP50", "#d62728"),
)


def rows(path: Path) -> list[dict[str, float]]:
    with open(path, newline="", encoding="utf-8") as file:
        return [{key: float(value) for key, value in row.items() if value} for row in csv.DictReader(file)]


def record(run: Path) -> dict[str, Any]:
    summary = json.loads((run / "summary.json").read_text(encoding="utf-8"))
    losses, metrics = rows(run / "log.csv"), rows(run / "metrics.csv")
    # Where the data lay on this machine is nobody's business.
    data = summary["recipe"]["data"]
    for split in ("train", "val"):
        data[split] = {key: Path(value).name for key, value in data[split].items()}
    return {"machine": timing.machine(), **summary, "losses": losses, "evaluations": metrics}


def polyline(points: list[tuple[float, float]], last: float, top: float, color: str) -> str:
    x = (MARGIN + (WIDTH - 2 * MARGIN) * iteration / last for iteration, _ in points)
    y = (HEIGHT - MARGIN - (HEIGHT - 2 * MARGIN) * min(value / top, 1) for _, value in points)
    path = " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x, y, strict=True))
    return f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="2"/>'


def text(x: float, y: float, value: str, color: str = "#000000", anchor: str = "start") -> str:
    return (
        f'<text x="{x:.0f}" y="{y:.0f}" fill="{color}" text-anchor="{anchor}" '
        f'font-family="sans-serif" font-size="13">{value}</text>'
    )


def curves(result: dict[str, Any]) -> str:
    """AP on the left axis, 0 to 1; the loss is scaled to its largest value."""
    last = max(row["iteration"] for row in result["losses"] + result["evaluations"])
    parts = [f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>']
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        y = HEIGHT - MARGIN - (HEIGHT - 2 * MARGIN) * share
        parts.append(f'<path d="M{MARGIN} {y}H{WIDTH - MARGIN}" stroke="#dddddd"/>')
        parts.append(text(MARGIN - 6, y + 4, f"{share:g}", anchor="end"))
    parts.append(text(WIDTH - MARGIN, HEIGHT - MARGIN + 18, f"{last:.0f} iterations", anchor="end"))
    for k, (key, name, color) in enumerate(CURVES):
        source = result["losses"] if key == "total" else result["evaluations"]
        points = [(row["iteration"], row[key]) for row in source if key in row]
        if not points:
            continue
        top = max(value for _, value in points) if key == "total" else 1.0
        parts.append(polyline(points, last, top, color))
        label = f"{name} (1 is {top:.2f})" if key == "total" else f"{name} {points[-1][1]:.3f}"
        parts.append(text(MARGIN + 190 * k, 24, label, color))
    body = "\n".join(parts)
    return f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}">\n{body}\n</svg>\n'


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, help="folder of a finished run")
    parser.add_argument("output", type=Path, help="path without suffix")
    arguments = parser.parse_args()
    result = record(arguments.run)
    arguments.output.with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    arguments.output.with_suffix(".svg").write_text(curves(result), encoding="utf-8")


if __name__ == "__main__":
    main()
