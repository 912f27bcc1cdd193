"""`genbias-bench`: adds the verbs and turns errors into one sentence and an exit code.

Exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted.
"""

from __future__ import annotations

import logging
import os
import sys
import traceback

import typer

from benchmark.cli import (
    accept,
    audit,
    data,
    describe,
    doctor,
    env,
    evaluate,
    leaderboard,
    listing,
    methods,
    plan,
    push,
    replay,
    reproduce,
    score,
    submit,
    sweep,
    tasks,
    tune,
    verify,
)
from benchmark.errors import GenBiasError

FAILED, USAGE, INTERRUPTED = 1, 2, 130

# Typer carries a copy of click in some versions and imports it in others; these are right in both.
_UsageError: type[Exception] = typer.BadParameter.__mro__[1]
_ClickError: type[Exception] = typer.BadParameter.__mro__[2]

app = typer.Typer(
    name="genbias-bench",
    help="Does training image classifiers with generated data remove bias, move it, or amplify it?\n\n"
    "Start with: genbias-bench evaluate --method ffr",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("evaluate")(evaluate.evaluate)
app.command("plan")(plan.plan)
app.command("sweep")(sweep.sweep)
app.command("tune")(tune.tune)
app.add_typer(listing.app, name="list")
app.command("describe")(describe.describe)
app.add_typer(data.app, name="data")
app.command("audit")(audit.audit)
app.add_typer(methods.app, name="methods")
app.add_typer(tasks.app, name="tasks")
app.command("score")(score.score)
app.command("submit")(submit.submit)
app.command("verify")(verify.verify)
app.command("replay")(replay.replay)
app.command("reproduce")(reproduce.reproduce)
leaderboard.app.command("accept")(accept.accept)
leaderboard.app.command("push")(push.push)
app.add_typer(leaderboard.app, name="leaderboard")
app.command("env")(env.env)
app.command("doctor")(doctor.doctor)


def _message(error: Exception) -> str:
    formatted: str = getattr(error, "format_message", error.__str__)()
    return formatted


def main() -> None:
    """Run the command line and exit."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s", stream=sys.stderr)
    debug = "--debug" in sys.argv
    try:
        code = app(standalone_mode=False)
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    except _ClickError as error:
        if type(error).__name__ == "NoArgsIsHelpError":
            sys.stderr.write(f"{_message(error)}\n")
            sys.exit(USAGE)
        usage = getattr(getattr(error, "ctx", None), "command_path", "genbias-bench")
        sys.stderr.write(f"error: {_message(error)}\n(`{usage} --help` shows what there is)\n")
        code = USAGE if isinstance(error, _UsageError) else FAILED
    except GenBiasError as error:
        if debug:
            raise
        sys.stderr.write(f"error: {error}\n")
        code = error.exit_code
    except BrokenPipeError:
        # The reader of our output went away, as `| head` does; nothing is lost.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = FAILED
    except Exception as error:
        if debug:
            raise
        place = traceback.extract_tb(error.__traceback__)[-1]
        sys.stderr.write(
            f"error: {place.filename}, line {place.lineno}: {type(error).__name__}: {error}\n"
            "(run with --debug for the whole traceback)\n"
        )
        code = FAILED
    if code == INTERRUPTED:
        sys.stderr.write("interrupted; what was finished is kept, run the same command again\n")
    sys.exit(code if isinstance(code, int) else 0)


if __name__ == "__main__":
    main()
