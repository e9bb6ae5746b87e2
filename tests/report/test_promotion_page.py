import re

from tests.report.pages import promotion


def test_the_decision_stands_beside_both_sides_of_the_contest() -> None:
    text = promotion()
    assert "May version 3 of shop take over staging?" in text
    assert "Yes, promoted to staging." in text
    assert "better than &lt;script&gt;" in text
    assert "0.7523</strong> ROC AUC of the champion, version 2" in text
    assert "1,200 test rows. A further 862 test rows are left out" in text
    assert "0: the challenger must be better" in text
    assert '<a href="https://mlflow.example.org/#/runs/0123456789abcdef" target="_blank" rel="noopener">' in text
    assert "In MLflow's Artifacts tab, open a link by Ctrl-click, Cmd-click or middle-click." in text


def test_an_interval_lies_on_the_side_that_its_sign_says() -> None:
    table = promotion().partition("Challenger and champion")[2]
    better, worse = (
        [float(x) for x in re.findall(r'class="line" x1="([\d.]+)%" x2="([\d.]+)%"', row)[0]]
        for row in (table[table.index("ROC AUC</td>") :], table[table.index("F1 at the threshold</td>") :])
    )
    assert 50 < better[0] < better[1] <= 100
    assert 0 <= worse[0] < 50 < worse[1]


def test_without_a_contest_the_challenger_stands_alone() -> None:
    text = promotion(contest=False, promoted=False, reason="too few users to tell")
    assert "No, not promoted." in text
    assert "too few users to tell." in text
    assert "Challenger and champion" not in text
    assert "Challenger and baseline" in text
    assert "It passed the gate and waits for approval." in promotion(promoted=False, waits=True)
    assert "Registered only" in promotion(contest=False, env="", promoted=False)
