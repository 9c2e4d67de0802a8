"""The command line: ``dgmm select``, ``train``, ``score``, ``sample``, ``predict`` and more, and ``dgmm models``."""

from __future__ import annotations

import gc
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from cyclopts import App, CycloptsError

from dgmm import __version__
from dgmm.errors import DgmmError, InputError, first_line, is_of_obstore

app = App(
    name="dgmm",
    version=__version__,
    help="Gaussian mixture models fitted, selected and applied straight from chunked Zarr arrays.",
    result_action="return_value",
    suppress_keyboard_interrupt=False,
)
#: The commands, which are imported when one is called, and what the list of them says.
COMMANDS = {
    "select": "Choose the number of components and the covariance type.",
    "train": "Fit one mixture.",
    "score": "Label every sample with a fitted mixture.",
    "sample": "Draw samples from a fitted mixture.",
    "predict": "Predict some features of every sample from others.",
    "ingest": "Write what is no Zarr store (CSV, Parquet, NetCDF, .npy) as one.",
    "merge": "Merge the components of a fitted mixture into clusters.",
    "update": "Go on with new samples, without those that a mixture was fitted to.",
    "refresh": "Do what is done every night: look at new data, renew the model if asked to, score what is new.",
    "verify": "Say whether scores or a model are what was written.",
    "drift": "Say whether data are still like those that a model was fitted to.",
    "info": "Say what a model, scores or a store of samples hold.",
}
for _name, _help in COMMANDS.items():
    app.command(f"dgmm.commands:{_name}", name=_name, help=_help)
#: The same of a registry of models.
MODELS = {
    "add": "Put a model into a registry, as its candidate.",
    "list": "List the versions in a registry, and which of them is in use.",
    "show": "Show the card of a version.",
    "promote": "Make a version the champion.",
    "rollback": "Make the version before the champion again.",
}
models = App(name="models", help="Versions of a model in a folder, and which of them is in use.")
for _name, _help in MODELS.items():
    models.command(f"dgmm.models:{_name}_version", name=_name, help=_help)
app.command(models)

#: Objects made between two looks for cyclic garbage, and how many of these looks go one generation further each.
RARELY = 50_000, 20, 100
#: What to do about errors of libraries that take longer to import than most commands to run, by their names.
ADVICE = {
    "NoValidWorkerError": "no worker may take this task; start workers, or leave the scheduler to dgmm",
    "NoWorkerError": "there is no worker left; start workers, or leave the scheduler to dgmm",
    "CancelledError": "the scheduler has given up the work; see whether it still runs, and run the same command again",
    "CommClosedError": "the connection to the scheduler or a worker is lost; see whether they still run, and run the "
    "same command again",
    "TimeoutError": "an answer took too long; see whether the other side runs and can be reached, and run the same "
    "command again",
    "LinAlgError": "a covariance is singular to rounding; raise reg_covar (training.reg_covar), or leave features out "
    "that follow from others",
    "MemoryError": "there is not enough memory; use smaller chunks or fewer workers (cluster.n_workers)",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; see `run_app` for the exit code."""
    if arguments is None:
        # most of what a program makes as it begins are modules, which stay: a sixth of a short command's time went into
        # looking for garbage among them
        gc.set_threshold(*RARELY)
    return run_app(app, sys.argv[1:] if arguments is None else arguments)


def run_app(which: App, arguments: Sequence[str]) -> int:
    """Run a command; its exit code.

    It is 0, 2 for bad input, 1 for what went wrong later, 130 for Ctrl-C, 143 where the system ended it (SIGTERM); a
    command may return another, or say with an error what its is (``exit_code``).
    """
    try:
        with terminable():
            code = which(list(arguments), exit_on_error=False, print_error=False)
    except CycloptsError as error:
        return complain(" ".join(str(error).split()), 2)
    except InputError as error:
        return complain(str(error), 2)
    except DgmmError as error:
        return complain(" ".join(str(error).split()), code_of(error))
    except Exception as error:
        failed = code_of(error)
        if is_of_obstore(error):
            return complain(f"an object store has failed: {first_line(error)}; run the same command again", failed)
        advice = next((ADVICE[base.__name__] for base in type(error).__mro__ if base.__name__ in ADVICE), None)
        if advice is None and not isinstance(error, (OSError, RuntimeError)):
            raise
        words = " ".join(str(error).split()) or type(error).__name__
        # some say more than a sentence, and where to read on
        return complain(words if advice is None else f"{words.split('. ')[0].rstrip('.')}: {advice}", failed)
    except KeyboardInterrupt as interrupt:
        # what was interrupted may have noted how it goes on
        advice = "; ".join(getattr(interrupt, "__notes__", ["run the same command again"]))
        word, code = ("terminated", 143) if isinstance(interrupt, Terminated) else ("interrupted", 130)
        return complain(f"{word}: nothing half-written is left; {advice}", code)
    return code if isinstance(code, int) else 0


def code_of(error: Exception) -> int:
    """The exit code that an error stands for."""
    return int(getattr(error, "exit_code", 1))


class Terminated(KeyboardInterrupt):
    """SIGTERM, by which the system asks a process to end."""


@contextmanager
def terminable() -> Iterator[None]:
    """Context in which SIGTERM interrupts as Ctrl-C does, so that everything is cleared up."""

    def terminate(*_: object) -> None:
        raise Terminated

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def complain(message: str, code: int) -> int:
    """Print one line to standard error and return the exit code."""
    print(f"dgmm: {message}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
