# SPDX-License-Identifier: Apache-2.0
"""What all commands share: error lines, JSON output, checks of arguments, help examples."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.progress import Progress


class UsageError(ValueError):
    """A command line that cannot be understood: exit code 2."""


class QuietExit(Exception):
    """The end of a process whose error another one reports."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


def one_line(text: str) -> str:
    """``text`` with line breaks folded into spaces."""
    return " ".join(text.split())


def print_error(message: str) -> None:
    """Write ``instseg: error: message`` to stderr, always as one line."""
    print(f"instseg: error: {one_line(message)}", file=sys.stderr, flush=True)


def print_warning(message: str) -> None:
    """Write ``instseg: warning: message`` to stderr, always as one line."""
    print(f"instseg: warning: {one_line(message)}", file=sys.stderr, flush=True)


def examples(*lines: str) -> str:
    """Epilog of a help page; the leading backspace keeps the line breaks."""
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)


def to_json(document: Any) -> str:
    """``document`` as the text that all commands write."""
    return json.dumps(document, indent=2, ensure_ascii=False)


def check_output_file(path: str | None, option: str) -> None:
    """Fail before the work rather than after it when ``path`` cannot be written."""
    if path is None or path == "-":
        return
    if not Path(path).parent.is_dir():
        raise OSError(f"the folder of {option} '{path}' does not exist")
    if Path(path).is_dir():
        raise OSError(f"{option} '{path}' is a folder; it needs a file name")


def write_json(path: str, document: Any) -> None:
    """Write ``document`` to the file ``path``, or to stdout for ``-``."""
    if path == "-":
        print(to_json(document))
    else:
        Path(path).write_text(to_json(document) + "\n", encoding="utf-8")


def check_file(path: str, what: str) -> None:
    """OSError that names ``path`` unless it is a file."""
    if not Path(path).is_file():
        state = "is a folder, not a file" if Path(path).is_dir() else "does not exist"
        raise OSError(f"{what} '{path}' {state}")


def check_folder(path: str, what: str) -> None:
    """OSError that names ``path`` unless it is a folder."""
    if not Path(path).is_dir():
        state = "is a file, not a folder" if Path(path).exists() else "does not exist"
        raise OSError(f"{what} '{path}' {state}")


def check_device(device: str, precision: str) -> None:
    """UsageError unless both options can be understood."""
    if not re.fullmatch(r"cpu|cuda(:\d{1,3})?", device):
        raise UsageError(f"--device must be cpu, cuda or cuda:N, got '{device}'")
    if precision not in ("fp32", "bf16", "fp16"):
        raise UsageError(f"--precision must be fp32, bf16 or fp16, got '{precision}'")


def progress_bar(what: str, *, hidden: bool = False) -> Progress:
    """A progress bar on stderr that vanishes at the end; silent where stderr is no terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console, transient=True, disable=hidden or not console.is_terminal)


def count(number: int, noun: str) -> str:
    """``1 image``, ``2 images``."""
    return f"{number} {noun}{'' if number == 1 else 's'}"
