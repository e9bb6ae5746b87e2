import subprocess

from tests.conftest import PROJECT
from tests.preloaded.start import program
from tests.terminal import on_a_terminal

SEARCH = """
from purchase_predict.search.progress import progress
from purchase_predict.search.trial import Trial

def trial(number, score):
    state = "failed" if score is None else "finished"
    return Trial(number, state, {}, {}, None if score is None else -score, score, 7, 1.5, "no such luck")

with progress(4, "roc_auc", [trial(0, 0.61)]) as advance:
    for number, score in enumerate((0.65, None, 0.63), 1):
        advance(trial(number, score))
"""


def test_a_person_sees_a_bar_with_the_best_so_far_and_standard_output_nothing() -> None:
    screen, output = on_a_terminal("-c", SEARCH, output_too=False)
    assert output == b""
    shown = screen.split("\r")
    assert any("1/4" in line and "best roc_auc 0.6100" in line for line in shown)
    assert "4/4" in shown[-2] + shown[-1]
    assert "best roc_auc 0.6500" in shown[-2] + shown[-1]


def test_a_log_gets_a_line_for_each_new_trial() -> None:
    ended = subprocess.run([program("python"), "-c", SEARCH], cwd=PROJECT, capture_output=True, text=True, check=True)
    assert ended.stderr == ""
    assert ended.stdout.splitlines() == [
        "train: trials reused from an earlier search with the same search key: 1",
        "train: trial 2/4, roc_auc 0.6500 out of fold, 7 rounds, 1.5 s",
        "train: trial 3/4, failed: no such luck, 1.5 s",
        "train: trial 4/4, roc_auc 0.6300 out of fold, 7 rounds, 1.5 s",
    ]
