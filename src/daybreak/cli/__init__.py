"""The command line: thin verbs over `daybreak.api`. Results on stdout, everything else on stderr.

With `--json` stdout carries one JSON object and nothing else. Errors are one line on stderr, with the exit codes of
docs/exit-codes.md; `--debug` shows the traceback. Stands on everything. From outside: `main`, `app`.
"""

import difflib
import json
import os
import signal
import sys
import traceback
import warnings

import typer

# The help lists the verbs in the order of these imports.
from daybreak.cli import train_commands

# isort: split
from daybreak.cli import sweep_command

# isort: split
from daybreak.cli import run_commands

# isort: split
from daybreak.cli import serve_command

# isort: split
from daybreak.cli import about_commands, output
from daybreak.cli.options import app, stderr
from daybreak.core.errors import DaybreakError, StoppedError, UsageError
from daybreak.core.launcher import launch
from daybreak.core.signals import noted_signal, obey_signals

__all__ = [
    "about_commands",
    "app",
    "main",
    "run_commands",
    "serve_command",
    "sweep_command",
    "train_commands",
]  # these modules add their verbs to app


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit with the contract's code."""
    obey_signals()
    sys.exit(_run(sys.argv[1:] if arguments is None else arguments))


def _run(arguments: list[str]) -> int:
    warnings.filterwarnings(
        "ignore", ".*decompression bomb"
    )  # images too large get an error of ours, from their header
    output.log(quiet=not {"-q", "--quiet"}.isdisjoint(arguments))
    try:
        return _call_app(arguments)
    except DaybreakError as error:
        return _fail(error, arguments)
    except typer.TyperException as error:
        if not error.format_message():  # no command at all: the help has been shown
            return UsageError.exit_code
        return _fail(_misused(error, arguments), arguments)
    except StoppedError as stopped:
        stderr.print(str(stopped), highlight=False, markup=False)
        return 128 + stopped.signal
    except (KeyboardInterrupt, typer.Abort):
        stderr.print("interrupted", highlight=False)
        return 128 + (noted_signal() or signal.SIGINT)
    except BrokenPipeError:  # the reader of our output has left, as in `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        unexpected = DaybreakError(
            type(error).__name__, str(error) or "unexpected", "--debug, and report what it shows"
        )
        return _fail(unexpected, arguments)


def _misused(error: typer.TyperException, arguments: list[str]) -> UsageError:
    """What is wrong with a command line, and which command comes nearest to one that there is not."""
    word = next(iter(arguments), "")
    known = [command.name or command.callback.__name__ for command in app.registered_commands if command.callback]
    if word.startswith("-"):
        return UsageError("daybreak", error.format_message().rstrip("."), "daybreak --help")
    if word not in known:
        near = difflib.get_close_matches(word, known, n=1)
        return UsageError(f"daybreak {word}", "no such command", f"daybreak {near[0] if near else '--help'}")
    return UsageError(f"daybreak {word}", error.format_message().rstrip("."), f"daybreak {word} --help")


def _call_app(arguments: list[str]) -> int:
    """The app's exit code.

    Raises:
        KeyboardInterrupt: a signal has come that no training took, whatever has become of its exception since
            (`core.signals`).
    """
    try:
        code = int(app(args=arguments, prog_name="daybreak", standalone_mode=False) or 0)
    except BaseException:
        if noted_signal() is not None:
            raise KeyboardInterrupt from None
        raise
    if noted_signal() is not None:
        raise KeyboardInterrupt
    return code


def _fail(error: DaybreakError, arguments: list[str]) -> int:
    if "--debug" in arguments:
        traceback.print_exc()
    how = launch()
    who = "" if how.is_first else f"process {how.rank} of {how.size}: "  # of those that a launcher started
    print(f"{who}error: {error}", file=sys.stderr)
    if "--json" in arguments:
        print(json.dumps(error.as_json()))
    return error.exit_code
