# SPDX-License-Identifier: Apache-2.0
"""The ``instseg`` command line: train, eval, predict, convert, info, models, data check."""

from __future__ import annotations

import sys
from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code.

    Args:
        argv: arguments after the program name; ``sys.argv[1:]`` by default.

    Returns:
        0 when all went well, 1 when some input failed, 2 on bad usage, 130 when interrupted.
    """
    from instseg.cli._app import run

    return run(list(sys.argv[1:] if argv is None else argv))
