# SPDX-License-Identifier: Apache-2.0
"""Assembles the commands and turns every failure into one line and an exit code."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from instseg.cli import _convert, _data, _evaluate, _info, _models, _predict, _train
from instseg.cli._common import QuietExit, UsageError, examples, print_error

app = typer.Typer(
    name="instseg",
    help="Train, evaluate and run single-shot detectors.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=examples(
        "instseg models",
        "instseg train nuclei_efficientnet_lite0 --output runs/nuclei",
        "instseg eval runs/nuclei/model.safetensors --annotations val.json --images images/",
        "instseg predict cells.png --output out/",
        "instseg predict runs/nuclei/model.safetensors photo.jpg --output out/",
        "instseg COMMAND --help",
    ),
)


def _version(value: bool) -> None:
    if value:
        import instseg

        typer.echo(f"instseg {instseg.__version__}")
        raise typer.Exit()


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


app.command("train", epilog=_train.EXAMPLES)(_train.train)
app.command("eval", epilog=_evaluate.EXAMPLES)(_evaluate.evaluate)
app.command("predict", epilog=_predict.EXAMPLES)(_predict.predict)
app.command("convert", epilog=_convert.EXAMPLES)(_convert.convert)
app.command("info", epilog=_info.EXAMPLES)(_info.info)
app.command("models", epilog=_models.EXAMPLES)(_models.models)
app.add_typer(_data.app, name="data")


def run(argv: list[str]) -> int:
    """Run ``instseg argv`` and return the exit code; nothing but usage help escapes as an exception."""
    try:
        code = app(args=argv, prog_name="instseg", standalone_mode=False)
        code = code if isinstance(code, int) else 0
    except (KeyboardInterrupt, typer.Abort):
        code = 130
    except QuietExit as end:
        return end.code
    except UsageError as error:
        print_error(str(error))
        return 2
    except BrokenPipeError:
        # The reader (a pager, `head`) is gone: stop quietly, and keep the interpreter from flushing again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (ValueError, TypeError, OSError, RuntimeError) as error:  # all that instseg raises
        if os.environ.get("INSTSEG_TRACEBACK"):
            raise
        print_error(str(error))
        return 1
    except Exception as error:
        message = getattr(error, "format_message", None)  # typer's own usage errors
        if message is None:
            raise
        if type(error).__name__ == "NoArgsIsHelpError":
            print(message(), file=sys.stderr)
        else:
            print_error(f"{message().rstrip('.')} (see {_help_of(error)})")
        return 2
    if code == 130:
        print_error("interrupted")
    return code


def _help_of(error: Exception) -> str:
    context = getattr(error, "ctx", None)
    return f"{context.command_path if context is not None else 'instseg'} --help"
