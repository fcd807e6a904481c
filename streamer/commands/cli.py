"""`python -m streamer`: the command line, put together.

Exit codes: 0 done, 1 the check said no, 2 configuration or usage, 3 broker, 4 data; 70 is a defect of ours, 130
Ctrl-C. What goes wrong is one clear sentence on standard error; `--debug` shows the stack as well.
"""

import os
import sys
from typing import Annotated

import typer
from typer.exceptions import Abort, Exit

from streamer.commands import (
    audit,
    config,
    dead_letters,
    doctor,
    explain,
    items,
    models,
    produce,
    run,
    topics,
    validate,
    watch,
)
from streamer.commands.shared import Choices, ConfigOption, say
from streamer.errors import FactorsError

_DEFECT, _INTERRUPTED = 70, 130

app = typer.Typer(
    name="streamer",
    help="Keeps matrix-factorisation vectors fresh from a Kafka stream, event by event, exactly once.",
    epilog="Exit codes: 0 done, 1 the check said no, 2 configuration, 3 broker, 4 data.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command("run")(run.run)
app.add_typer(topics.app, name="topics")
app.add_typer(items.app, name="items")
app.command("produce")(produce.produce)
app.command("validate")(validate.validate)
app.add_typer(watch.app, name="watch")
app.add_typer(explain.app, name="explain")
app.add_typer(models.app, name="models")
app.add_typer(dead_letters.app, name="dead-letters")
app.command("audit")(audit.audit)
app.command("doctor")(doctor.doctor)
app.add_typer(config.app, name="config")


@app.callback()
def _choose(
    config: ConfigOption = None,
    *,
    debug: Annotated[bool, typer.Option("--debug", help="Show the stack of an error.")] = False,
) -> None:
    Choices.config, Choices.debug = config, debug


def main() -> None:
    """Run the command line and exit."""
    try:
        code = app(standalone_mode=False)
    except FactorsError as problem:
        code = _tell(str(problem), problem, problem.exit_code)
    except (KeyboardInterrupt, Abort):
        code = _INTERRUPTED
    except Exit as done:
        code = done.exit_code
    except typer.TyperException as problem:
        problem.show() if hasattr(problem, "show") else say(f"streamer: {problem.format_message()}")
        code = problem.exit_code
    except SystemExit as ended:
        # What typer makes of a pipe whose reader has seen enough: that is no "no".
        if not isinstance(ended.__context__, BrokenPipeError):
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.__stdout__.fileno() if sys.__stdout__ else 1)
        code = 0
    except Exception as problem:  # noqa: BLE001 - the last resort of the process
        text = f"unexpected {type(problem).__name__}: {problem}; this is a defect, --debug shows where"
        code = _tell(text, problem, _DEFECT)
    sys.exit(code or 0)


def _tell(text: str, problem: Exception, code: int) -> int:
    if Choices.debug:
        import traceback

        traceback.print_exception(problem)
    say(f"streamer: {text}")
    return code
