"""The click command of an entry point: opens its run, checks its parameters, reports errors in one line."""

import atexit
import errno
import gc
import logging
import os
import re
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, NoReturn

import click
import mlflow
from mlflow.entities import Run
from mlflow.exceptions import MlflowException
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID
from requests import RequestException

from purchase_predict import mlflow_errors, parameters, progress
from purchase_predict.errors import first_line, print_line, printable
from purchase_predict.secrets import shown_uri
from purchase_predict.settings import Settings, server_conflict, store_problem
from purchase_predict.workflow import descriptions, lease, names, remote
from purchase_predict.workflow.experiments import PROJECT_EXPERIMENT
from purchase_predict.workflow.notification import Posted, notify
from purchase_predict.workflow.scratch import process_folder, remove_orphans
from purchase_predict.workflow.stopping import (
    MAIN_PROCESS,
    Stopped,
    closing,
    errors_of_an_interruption,
    exit_at_last,
    opened,
    stop_with_launcher,
)

#: Set once this process has decided whether to post its failure to the webhook, so that no failure is posted twice.
_notified = threading.Event()


class _OneLineErrors(click.Command):
    """Reports a user's mistake in one line on stderr, with exit code 1; the run's tag `error` has the same text."""

    def main(self, *args: Any, **kwargs: Any) -> NoReturn:
        if not args and not kwargs:  # run as a program: from here on, garbage collection skips the imported modules
            gc.freeze()
            atexit.register(gc.unfreeze)  # otherwise some C++ modules report leftover objects at exit
        kwargs["standalone_mode"] = False
        _notified.clear()
        try:
            sys.exit(super().main(*args, **kwargs) or 0)
        except StepFailed:
            sys.exit(1)
        except click.ClickException as error:
            self._fail(error.format_message())
        except click.Abort as abort:  # click raises it in place of a KeyboardInterrupt
            code = 128 + (signal.SIGTERM if isinstance(abort.__cause__, Stopped) else signal.SIGINT)
            exit_at_last(code)
            sys.exit(code)
        except (MlflowException, RequestException) as error:
            if isinstance(error, MlflowException) and not mlflow_errors.is_of_the_server(error):
                _notify_of_failure(self.name or "", _as_message(error))
                raise
            self._fail(f"tracking server {shown_uri(mlflow.get_tracking_uri())}: {first_line(error)}")
        except Exception as error:
            _notify_of_failure(self.name or "", _as_message(error))
            raise

    def _fail(self, message: str) -> NoReturn:
        message = printable(message)
        print_line(f"Error: {message}", err=True)
        _notify_of_failure(self.name or "", message)
        run_id = os.environ.get("MLFLOW_RUN_ID")
        # `mlflow run` has opened this run. If the command line was wrong, the error is not recorded on it yet.
        if run_id:
            _record_failure(run_id, self.name or "", message)
        sys.exit(1)


def _as_message(error: BaseException) -> str:
    """An error that is not a user's mistake, as one line: its class and the first line of its text."""
    return f"{type(error).__name__}: {first_line(error)}"


def _record_failure(run_id: str, entry_point: str, message: str) -> None:
    """Records an error on its run. If this fails, only the debug log says so: the user must see the first error."""
    try:
        descriptions.record_failure(run_id, message)
        names.give_to_failed(run_id, entry_point)
    except Exception:
        logging.getLogger(__name__).debug("the error could not be recorded", exc_info=True)


def _end_run(status: str) -> None:
    """Ends the active run. If this fails, only the debug log says so: the user must see why the run ends."""
    try:
        mlflow.end_run(status)
    except Exception:
        logging.getLogger(__name__).debug("the run could not be ended", exc_info=True)


def _notify_of_failure(entry_point: str, message: str, run: Run | None = None) -> None:
    """Posts a failure to the webhook, at most once per process.

    A step that main launched posts nothing, because main posts the failure. `status` posts nothing, because its user
    sees the error.

    Args:
        entry_point: the entry point that failed.
        message: the error, in one line.
        run: the run that failed; None: the failure came before this process had an active run.
    """
    if _notified.is_set():
        return
    _notified.set()
    if run:
        below_main = MLFLOW_PARENT_RUN_ID in run.data.tags
    else:  # main sets MAIN_PROCESS in its own environment, too
        below_main = entry_point != "main" and (MAIN_PROCESS in os.environ or remote.IN_JOB in os.environ)
    if not below_main and entry_point != "status":
        notify(f"{'the workflow' if entry_point == 'main' else entry_point} failed: {message}", run)


def command(entry_point: str) -> Callable[[Callable[..., None]], click.Command]:
    """Makes the click command of an entry point from `function(run, **parameters)`.

    The command's options are the parameters that MLproject declares for the entry point. `run` is the run that
    `mlflow run` has opened, or else a new run. While the function runs, `run` is MLflow's active run. It ends as
    FINISHED; as FAILED after an error, with the message in the tag `error`; or as KILLED after an interruption.
    """

    def decorate(function: Callable[..., None]) -> click.Command:
        def callback(**given: str) -> None:
            # MLflow logs every launch and download, which would bury the workflow's own lines.
            logging.getLogger("mlflow").setLevel(logging.WARNING)
            os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
            os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
            progress.name_process(entry_point)
            if entry_point == "main":
                remove_orphans()
            with (
                progress.taken_over(),
                nullcontext() if entry_point == "serve" else progress.phase("running", in_log=False),
                stop_with_launcher(),
                _open_run(entry_point) as run,
                errors_of_an_interruption(),
                _limits_explained(),
                process_folder(),
            ):
                values = parameters.resolve(entry_point, given)
                if entry_point not in parameters.STEPS:  # a step is named later, once its source is known
                    names.give(run, entry_point, names.name_of(entry_point, values))
                function(run, **values)

        return _OneLineErrors(
            entry_point, callback=callback, params=parameters.options(entry_point), help=function.__doc__
        )

    return decorate


@contextmanager
def _open_run(entry_point: str) -> Iterator[Run]:
    launched = os.environ.get("MLFLOW_RUN_ID")
    if launched:
        _refuse_relative_store()
    settings = Settings.read()
    if launched:
        conflict = server_conflict(settings, mlflow.get_tracking_uri())
        if conflict:
            raise click.ClickException(conflict)
    settings.export()
    server = shown_uri(mlflow.get_tracking_uri())
    if problem := store_problem(mlflow.get_tracking_uri()):
        raise click.ClickException(f"tracking server {server}: no run can be opened: {problem}")
    try:
        if not launched and (settings.experiment_name or "MLFLOW_EXPERIMENT_ID" not in os.environ):
            mlflow.set_experiment(settings.experiment_name or PROJECT_EXPERIMENT)
        if launched:
            remote.refuse_second_start(launched, lease.HEARTBEAT)
        run = mlflow.start_run()
        opened.append(run.info.run_id)
    except (click.ClickException, RequestException):
        raise
    except KeyboardInterrupt:  # the run may be open already, and MLflow would end it as FINISHED
        closing.set()
        _end_run("KILLED")
        raise
    except Exception as error:  # an error of MLflow or of a database driver, such as a missing driver
        what_to_do = ": install the driver of this database" if isinstance(error, ImportError) else ""
        raise click.ClickException(
            f"tracking server {server}: no run can be opened: {first_line(error)}{what_to_do}"
        ) from error
    try:
        with lease.heartbeat(run, sweep=entry_point == "main"):
            yield run
    except click.ClickException as error:
        if isinstance(error, Posted):
            _notified.set()
        _close_failed(run, entry_point, printable(error.format_message()))
        raise
    except KeyboardInterrupt:
        closing.set()
        _end_run("KILLED")
        if entry_point != "serve":  # an interruption is the normal way to end a server
            _record_interruption(run, entry_point)
        raise
    except BaseException as error:
        _close_failed(run, entry_point, _as_message(error))
        raise
    mlflow.end_run("FINISHED")


def _close_failed(run: Run, entry_point: str, message: str) -> None:
    """Closes a failed run. Posts the failure first: if the server is down, MLflow retries each write for minutes."""
    closing.set()
    _notify_of_failure(entry_point, message, run)
    _record_failure(run.info.run_id, entry_point, message)
    _end_run("FAILED")


def _record_interruption(run: Run, entry_point: str) -> None:
    """Writes to a run's description that it was interrupted, and how many trials are kept. Prints the same sentence.

    Main does not print the sentence, because its interrupted step does.
    """
    try:
        sentence = descriptions.record_interruption(run)
    except (MlflowException, RequestException):  # for example, the server is down; the run is already closed
        logging.getLogger(__name__).debug("the interruption could not be recorded", exc_info=True)
        return
    if entry_point != "main":
        print_line(f"{entry_point}: {sentence}", err=True)


@contextmanager
def _limits_explained() -> Iterator[None]:
    """Turns an error about a full disk or too little memory into a one-line ClickException. Leaves MLflow's errors."""
    try:
        yield
    except (click.ClickException, MlflowException):
        raise
    except Exception as error:
        # Each library has its own exception for a full disk, but all of them quote the system's message.
        if os.strerror(errno.ENOSPC) in str(error):
            raise click.ClickException(
                f"the disk is full ({first_line(error)}): scratch files go to {tempfile.gettempdir()}; make room "
                "there, or set TMPDIR to a folder with more room"
            ) from error
        # DuckDB's exception is matched by name, because this package does not import DuckDB.
        if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryException":
            raise click.ClickException(
                f"there is too little memory ({first_line(error)}): set a larger memory_limit "
                "(empty: a quarter of the machine's memory)"
            ) from error
        raise


def _refuse_relative_store() -> None:
    uri = mlflow.get_tracking_uri()
    match = re.fullmatch(r"(sqlite:///|file:|)((?!/|databricks|uc$|[a-z][a-z0-9+.-]*:).+)", uri, re.IGNORECASE)
    if match and not _holds(Path(match[2]), os.environ["MLFLOW_RUN_ID"]):
        del os.environ["MLFLOW_RUN_ID"]
        absolute = f"{match[1]}/<folder>/{match[2].removeprefix('./')}"
        raise click.ClickException(
            f"MLFLOW_TRACKING_URI={uri} is relative to the folder where `mlflow run` was called, but the project runs "
            f"in {Path.cwd()}. Set an absolute path: MLFLOW_TRACKING_URI={absolute}"
        )


def _holds(store: Path, run_id: str) -> bool:
    """Whether a store (a folder or a SQLite file) contains a run."""
    import sqlite3

    if store.is_dir():
        return any(store.glob(f"*/{run_id}"))

    if not store.is_file():
        return False
    with sqlite3.connect(f"file:{store}?mode=ro", uri=True) as connection:
        try:
            return bool(connection.execute("SELECT 1 FROM runs WHERE run_uuid = ?", (run_id,)).fetchone())
        except sqlite3.Error:
            return False


class StepFailed(click.ClickException):
    """A step ended with an error that it has already printed. Main records the error and prints nothing."""
