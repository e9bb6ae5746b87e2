"""The preloaded Python looks to a program like a fresh one, except for what it has imported."""

import fcntl
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.preloaded import command, start
from tests.preloaded.start import commands
from tests.workflow.processes import alive, wait_for

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the preloaded Python needs Linux")

#: A program that prints what it can see of how it was started.
SEEN = """
import json, os, signal, sys, threading
signals = {name: str(signal.getsignal(getattr(signal, name))) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGPIPE")}
umask = os.umask(0)
file = globals().get("__file__")
print(json.dumps([
    sys.argv, sys.path, tuple(sys.flags), __name__, file and os.path.abspath(file), __spec__ and __spec__.name,
    os.getcwd(), umask, signals, sys.stdin.read(), {**os.environ, "_": ""}, sys.stdout.encoding,
    sys.stdout.line_buffering, threading.active_count(), sys.modules["__main__"].__dict__ is globals(),
]))
sys.stderr.write("said")
raise SystemExit(3)
"""
WAIT = "import sys, time; print('begun', os.getpid() if (os := __import__('os')) else 0, flush=True); time.sleep(60)"


@pytest.fixture
def preloaded() -> str:
    folder = commands()
    assert folder
    return str(folder / "python")


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """A folder with a package whose module `seen` can also run as a script."""
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "__init__.py").touch()
    (tmp_path / "package" / "seen.py").write_text(SEEN)
    return tmp_path


def test_it_has_imported_mlflow_and_nothing_of_the_project(preloaded: str) -> None:
    ours = "('purchase_predict', 'steps', 'main', 'tests')"
    code = f"import sys; print('mlflow.cli' in sys.modules, *(n for n in sys.modules if n.startswith({ours})))"
    run = subprocess.run([preloaded, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "True\n"


@pytest.mark.parametrize("how", [["-m", "package.seen"], ["package/seen.py"], ["-c", SEEN]], ids=["-m", "file", "-c"])
def test_a_program_sees_what_it_sees_in_a_fresh_python(preloaded: str, program: Path, how: list[str]) -> None:
    def seen(python: str) -> tuple[int, str, str]:
        run = subprocess.run(
            [python, *how, "--an=argument", "with space é"], cwd=program, input="typed", capture_output=True, text=True,
            env=os.environ | {"ONE": "more\n"}, umask=0o027, check=False,
            preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN),
        )  # fmt: skip
        return run.returncode, run.stdout, run.stderr

    assert seen(preloaded) == seen(sys.executable)
    assert seen(preloaded)[0] == 3


@pytest.mark.parametrize("code", ["1/0", "raise SystemExit('no')", "raise SystemExit", "raise KeyboardInterrupt",
                                  "import os; os.abort()", "import os; os._exit(7)", "print('x')",
                                  "import atexit; atexit.register(print, 'last')",
                                  "import threading as t; t.Timer(0.2, print, ['late']).start()"])  # fmt: skip
def test_a_command_ends_as_its_program_does(preloaded: str, code: str) -> None:
    mine, fresh = (
        subprocess.run([python, "-c", code], capture_output=True, text=True, check=False)
        for python in (preloaded, sys.executable)
    )
    assert (mine.returncode, mine.stdout) == (fresh.returncode, fresh.stdout)
    assert mine.stderr.splitlines()[-1:] == fresh.stderr.splitlines()[-1:]


def begun(preloaded: str) -> tuple["subprocess.Popen[str]", int]:
    # If the tests run in the background of a shell, they may ignore SIGINT, and a child process would inherit this.
    process = subprocess.Popen(
        [preloaded, "-c", WAIT], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    assert process.stdout
    return process, int(process.stdout.readline().split()[1])


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_a_signal_to_the_command_is_the_programs(preloaded: str, sent: signal.Signals) -> None:
    process, program = begun(preloaded)
    assert alive(program)
    process.send_signal(sent)
    assert process.wait(20) == -sent
    wait_for(lambda: not alive(program), 20)


def test_a_killed_program_is_a_killed_command(preloaded: str) -> None:
    process, program = begun(preloaded)
    os.kill(program, signal.SIGKILL)
    assert process.wait(20) == -signal.SIGKILL


def test_the_parent_is_the_commands_even_when_that_dies(preloaded: str) -> None:
    code = "import os, time\nfor _ in range(100):\n    print(os.getppid(), flush=True)\n    time.sleep(0.1)"
    shell = subprocess.Popen(["bash", "-c", f'"{preloaded}" -c "$0"; true', code], stdout=subprocess.PIPE, text=True)
    assert shell.stdout
    assert int(shell.stdout.readline()) == shell.pid
    shell.kill()
    deadline = time.monotonic() + 20
    while int(shell.stdout.readline()) == shell.pid:
        assert time.monotonic() < deadline
    shell.stdout.close()  # the program's next print fails, and it ends
    shell.wait()


@pytest.mark.parametrize(
    ("arguments", "environ"),
    [
        (["-c"], {"PYTHONPATH": "/nowhere"}),
        (["-c"], {"OMP_NUM_THREADS": "1"}),
        (["-c"], {"MPLBACKEND": "svg"}),
        (["-X", "dev", "-c"], {}),
    ],
    ids=["Python", "native code", "a library", "an option"],
)
def test_what_python_reads_when_it_starts_makes_it_a_fresh_one(
    preloaded: str, arguments: list[str], environ: dict[str, str]
) -> None:
    code = "import sys; print('mlflow' in sys.modules, sys.executable)"
    run = subprocess.run(
        [preloaded, *arguments, code], env=os.environ | environ, capture_output=True, text=True, check=True
    )
    assert run.stdout == f"False {sys.executable}\n"


def test_open_files_keep_their_numbers(preloaded: str) -> None:
    files = [os.memfd_create(str(number)) for number in range(3)]
    wanted = [fcntl.fcntl(file, fcntl.F_DUPFD, least) for file, least in zip(files, (361, 317, 299), strict=True)]
    for number in wanted:
        os.write(number, f"file {number}".encode())
    code = f"import os; print([os.pread(n, 99, 0) for n in {wanted}], 'mlflow' in __import__('sys').modules)"
    run = subprocess.run([preloaded, "-c", code], pass_fds=wanted, capture_output=True, text=True, check=False)
    for file in (*files, *wanted):
        os.close(file)
    assert run.stdout == f"{[f'file {number}'.encode() for number in wanted]} True\n", run.stderr


def test_processes_of_multiprocessing_begin_and_end(preloaded: str, tmp_path: Path) -> None:
    (tmp_path / "main.py").write_text(
        "import multiprocessing, os\nif __name__ == '__main__':\n"
        "    with multiprocessing.get_context('spawn').Pool(2) as pool:\n        print(pool.map(abs, [-1, 2]))\n"
    )
    run = subprocess.run([preloaded, "main.py"], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60)
    assert (run.stdout, run.stderr) == ("[1, 2]\n", "")


def test_a_signal_to_the_group_that_a_command_leads_reaches_all_of_it(preloaded: str) -> None:
    code = (
        "import subprocess, sys, os\n"
        "print(os.getpid(), subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']).pid, flush=True)\n"
        "input()"
    )
    process = subprocess.Popen(
        [preloaded, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stdout
    pids = [int(pid) for pid in process.stdout.readline().split()]
    os.killpg(process.pid, signal.SIGKILL)
    assert process.wait(20) == -signal.SIGKILL
    wait_for(lambda: not any(map(alive, pids)), 20)


def test_every_option_that_is_not_a_program_is_left_to_python() -> None:
    assert not any(command.can_be_preloaded(given) for given in ([], ["-V"], ["-"], ["-m"], ["-Im", "package"]))


def test_a_step_finds_what_main_has_left_in_the_environment_and_is_preloaded_all_the_same(preloaded: str) -> None:
    # Variables as scikit-learn, MLflow and main set them.
    left = {"KMP_INIT_AT_FORK": "FALSE", "KMP_DUPLICATE_LIB_OK": "True", "MLFLOW_DISABLE_TELEMETRY": "true"}
    left |= {"_MLFLOW_TELEMETRY_SESSION_ID": "of main"}
    environ = (
        os.environ | left | {"MLFLOW_RUN_ID": "1", "MLFLOW_TRACKING_URI": "sqlite:///x", "MLFLOW_EXPERIMENT_ID": "1"}
    )
    code = "import sys, os; print('mlflow' in sys.modules, os.environ['MLFLOW_RUN_ID'])"
    run = subprocess.run([preloaded, "-c", code], env=environ, capture_output=True, text=True, check=True)
    assert run.stdout == "True 1\n"


def test_variables_of_the_test_that_needs_the_first_command_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    class Started(Exception):
        pass

    def popen(*_: object, env: dict[str, str], **__: object) -> None:
        assert env["PATH"]
        assert "MPLCONFIGDIR" not in env
        raise Started

    monkeypatch.setenv("MPLCONFIGDIR", "of this test")  # read when Matplotlib is imported
    monkeypatch.setattr(start.subprocess, "Popen", popen)
    with pytest.raises(Started):
        commands.__wrapped__()


def test_a_pod_writes_at_once_and_main_finds_its_cluster(preloaded: str) -> None:
    code = (
        "import sys; from kubernetes.config import kube_config\n"
        "print(kube_config.KUBE_CONFIG_DEFAULT_LOCATION, sys.stdout.write_through, 'mlflow' in sys.modules)"
    )
    pytest.importorskip("kubernetes")
    environ = os.environ | {"KUBECONFIG": "cluster.yaml", "PYTHONUNBUFFERED": "1"}
    run = subprocess.run([preloaded, "-c", code], env=environ, capture_output=True, text=True, check=True)
    assert run.stdout == "cluster.yaml True True\n"


def test_temporary_files_go_where_the_process_is_told(preloaded: str, tmp_path: Path) -> None:
    code = "import sys, tempfile; print(tempfile.gettempdir(), 'mlflow' in sys.modules)"
    environ = os.environ | {"TMPDIR": str(tmp_path)}
    run = subprocess.run([preloaded, "-c", code], env=environ, capture_output=True, text=True, check=True)
    assert run.stdout == f"{tmp_path} True\n"


def test_numbers_that_nobody_seeded_differ_from_process_to_process(preloaded: str) -> None:
    code = "import random, numpy, tempfile; print(random.random(), numpy.random.random(), tempfile.mktemp())"
    runs = [subprocess.run([preloaded, "-c", code], capture_output=True, text=True, check=True) for _ in range(2)]
    assert not {*runs[0].stdout.split()} & {*runs[1].stdout.split()}
