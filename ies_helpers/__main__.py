"""The command line: `ies` and `python -m ies_helpers`."""

import errno
import io
import os
import sys
import traceback
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import typer

from ies_helpers.cli import COMMANDS

UsageError: Any = typer.BadParameter.__bases__[0]  # Click's, or that of the copy that newer Typer carries
INTERRUPTED = 130  # exit code after Ctrl-C, as shells have it

app = typer.Typer(
    help="Explain a lesion-segmentation network one lesion at a time.",
    add_completion=False,
    pretty_exceptions_enable=False,
)
for command in COMMANDS:
    app.command()(command)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; a mistake ends with one sentence on stderr and exit code 2."""
    for stream in (sys.stdout, sys.stderr):  # a name, or an arrow, that the terminal's encoding lacks
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    os.environ["MPLBACKEND"] = "agg"  # pictures are files here
    try:
        code = _run(arguments)
        sys.stdout.flush()
    except BrokenPipeError:  # whoever read has seen enough, as `head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return code


def _run(arguments: Sequence[str] | None) -> int:
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    warnings.showwarning = lambda message, *_, **__: print(f"Note: {message}", file=sys.stderr)
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        os.getcwd()
    except FileNotFoundError:  # before a library, which would end the process, needs it
        return _fail("the working folder is gone; go to another one (cd).", 2)
    try:
        code = app(args=given or ["--help"], standalone_mode=False) or 0
    except UsageError as error:
        return _fail(error.format_message(), 2)
    except KeyError as error:
        return _fail(str(error.args[0]), 2)
    except BrokenPipeError:
        raise
    except OSError as error:
        if error.errno == errno.ENOSPC:
            where = f" ({error.filename})" if error.filename else ""
            return _fail(f"No space left on device{where}: make room, and the same command goes on where it was.", 2)
        return _fail(f"{error.filename} cannot be used, {error.strerror}." if error.filename else str(error), 2)
    except ValueError as error:
        if _of_matplotlib(error):
            remedy = "mend the file that MATPLOTLIBRC names, or matplotlibrc in ~/.config/matplotlib"
            return _fail(f"matplotlib's settings cannot be read ({error}): {remedy}.", 2)
        return _fail(str(error), 2)
    except (KeyboardInterrupt, typer.Abort) as error:  # Typer takes the end of a damaged file for Ctrl-D
        if isinstance(error.__cause__, EOFError):
            return _fail(f"a file ends too early ({error.__cause__}); make it anew.", 2)
        code = INTERRUPTED
    except (MemoryError, RuntimeError) as error:  # after Abort, which is a RuntimeError, too
        from ies_helpers.saliency.views import out_of_memory

        if not out_of_memory(error):
            raise
        return _fail(f"out of memory ({error}); close other programs, or take --device cpu or a smaller image.", 2)
    if code == INTERRUPTED:  # newer Typer returns it
        return _fail("interrupted; run the same command again and it goes on where it was.", code)
    return code


def _of_matplotlib(error: BaseException) -> bool:
    """Whether matplotlib could not read its settings, which it does when it is first imported."""
    frames = [frame.filename for frame in traceback.extract_tb(error.__traceback__)]
    return isinstance(error, UnicodeDecodeError) and any("matplotlib" in Path(name).parts for name in frames)


def _fail(message: str, code: int) -> int:
    print(f"ies: {' '.join(message.split())}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
