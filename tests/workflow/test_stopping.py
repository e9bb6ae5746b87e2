"""A process stops on SIGTERM, on Ctrl-C and when its launcher has died, whatever code it is in.

Its run, if one is open, ends as KILLED.
"""

import os
import signal
import subprocess
import sys
import time

import mlflow
import pytest

from tests.conftest import PROJECT
from tests.preloaded.start import program

#: Body of a step that gets a signal in a destructor. There, Python drops the exception of the signal handler.
IN_A_DESTRUCTOR = """
class Deaf:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGTERM)
        for _ in range(10_000):
            pass

Deaf()
print("dropped", flush=True)
time.sleep(60)
"""
#: Body of a step whose launcher is killed while native code blocks the step forever.
IN_NATIVE_CODE = """
mutex = ctypes.create_string_buffer(64)
os.kill(launcher, signal.SIGKILL)
print("held", flush=True)
while True:
    ctypes.CDLL(None).pthread_mutex_lock(mutex)
"""
#: Body of a step that gets a signal while another of its threads sleeps for 120 s.
BESIDE_A_THREAD = """
import threading
threading.Thread(target=time.sleep, args=[120]).start()
print("beside", flush=True)
os.kill(os.getpid(), signal.SIGTERM)
time.sleep(60)
"""
#: Body of a step that gets Ctrl-C in a destructor, which drops the exception. Then native code blocks the step forever.
DROPPED_THEN_HELD = IN_A_DESTRUCTOR.replace("SIGTERM", "SIGINT").replace(
    "time.sleep(60)",
    """
mutex = ctypes.create_string_buffer(64)
while True:
    ctypes.CDLL(None).pthread_mutex_lock(mutex)
""",
)
#: Body of a step in which a library turns Ctrl-C into an error of its own, as DuckDB does.
AS_AN_ERROR = """
print("begun", flush=True)
try:
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(60)
except KeyboardInterrupt:
    pass
raise RuntimeError("Query interrupted")
"""
#: Body of a step that, after Ctrl-C, waits for a child process, as MLflow's launcher does. It waits 4 s, so the request
#: to stop is repeated (after 2 s) during the wait.
WAITS_FOR_ITS_CHILD = """
try:
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(60)
except KeyboardInterrupt:
    time.sleep(4)
    print("waited", flush=True)
    raise
"""
#: Body of a step that hangs after Ctrl-C. The user presses Ctrl-C again 1 s later.
HANGS = """
import threading
try:
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(60)
finally:
    print("hangs", flush=True)
    threading.Timer(1, os.kill, [os.getpid(), signal.SIGINT]).start()
    stopping._CLOSING_SECONDS = 60
    time.sleep(60)
"""
#: Program of a step with one of the bodies above. Its time limits are shorter than the real ones.
STEP = """
import ctypes, os, signal, subprocess, sys, time
from purchase_predict.workflow import command, stopping

stopping._WATCH_SECONDS, stopping._REPEAT_SECONDS, stopping.GRACE_SECONDS = 0.1, 2, 6
launcher = os.getppid()

@command.command("load")
def load(run, **parameters):
    {body}

load([])
"""


def code_of(body: str) -> str:
    return STEP.format(body="    ".join(body.splitlines(keepends=True)))


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (IN_A_DESTRUCTOR, "dropped"),
        (IN_A_DESTRUCTOR.replace("SIGTERM", "SIGINT"), "dropped"),
        (IN_NATIVE_CODE, "held"),
        (BESIDE_A_THREAD, "beside"),
        (BESIDE_A_THREAD.replace("SIGTERM", "SIGINT"), "beside"),
    ],
    ids=["destructor", "Ctrl-C in a destructor", "native code", "thread", "Ctrl-C beside a thread"],
)
def test_a_step_that_is_to_stop_stops_wherever_it_is_and_its_run_says_so(store: str, body: str, said: str) -> None:
    experiment = mlflow.MlflowClient().create_experiment("stopping")
    run = mlflow.MlflowClient().create_run(experiment)
    # The launcher is a separate process, because one of the steps kills it.
    launcher = "import subprocess, sys; subprocess.run([sys.argv[1], '-c', sys.argv[2]])"
    printed = subprocess.run(
        # Native code must keep Python's own handlers from running, so this process is not preloaded.
        [
            sys.executable,
            "-c",
            launcher,
            sys.executable if body is IN_NATIVE_CODE else program("python"),
            code_of(body),
        ],
        cwd=PROJECT,
        env={**os.environ, "MLFLOW_RUN_ID": run.info.run_id, "MLFLOW_EXPERIMENT_ID": experiment},
        capture_output=True,
        text=True,
        timeout=50,  # `run` also waits for the step, because the step holds the pipes
    )
    assert said in printed.stdout, printed.stderr
    assert mlflow.MlflowClient().get_run(run.info.run_id).info.status == "KILLED"


@pytest.mark.parametrize(
    ("body", "said"),
    [(DROPPED_THEN_HELD, "dropped"), (AS_AN_ERROR, "begun"), (WAITS_FOR_ITS_CHILD, "waited"), (HANGS, "hangs")],
    ids=["native code", "an error of a library", "waits for its child", "a second Ctrl-C"],
)
def test_ctrl_c_ends_a_step_that_nobody_launched_as_interrupted(store: str, body: str, said: str) -> None:
    started = time.monotonic()
    ended = subprocess.run([program("python"), "-c", code_of(body)], cwd=PROJECT, env=environ(),
                           capture_output=True, text=True, timeout=50)  # fmt: skip
    assert said in ended.stdout, ended.stderr
    assert ended.returncode == 130
    assert time.monotonic() - started < 45
    assert statuses() == ["KILLED"]


def test_a_sigint_that_the_shell_has_set_to_be_ignored_stays_ignored(store: str) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", code_of("os.kill(os.getpid(), signal.SIGINT)\nprint('goes on')")],
        cwd=PROJECT, env=environ(), capture_output=True, text=True, timeout=50,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),
    )  # fmt: skip
    assert (ended.returncode, "goes on" in ended.stdout) == (0, True), ended.stderr
    assert statuses() == ["FINISHED"]


def test_ctrl_c_that_an_import_drops_ends_the_process_before_it_opens_a_run(store: str) -> None:
    dropped = IN_A_DESTRUCTOR.replace("SIGTERM", "SIGINT").replace("time.sleep(60)", "")
    before = f"import os, signal\nfrom purchase_predict import progress\nprogress.starting()\n{dropped}"
    ended = subprocess.run([sys.executable, "-c", before + code_of("print('computes')")], cwd=PROJECT, env=environ(),
                           capture_output=True, text=True, timeout=50)  # fmt: skip
    assert (ended.returncode, ended.stdout.split()) == (130, ["dropped"]), ended.stderr
    assert statuses() == []


def environ() -> dict[str, str]:
    return {**os.environ, "MLFLOW_EXPERIMENT_NAME": "tests"}


def statuses() -> list[str]:
    return [run.info.status for run in mlflow.search_runs(experiment_names=["tests"], output_format="list")]
