import dataclasses
import re
from html.parser import HTMLParser

import lightgbm
import numpy as np
import pandas as pd
import pytest

from purchase_predict import metrics
from purchase_predict.evaluation import scores, weaknesses
from purchase_predict.evaluation.calibration import Calibration
from purchase_predict.evaluation.curves import curves
from purchase_predict.features.description import BaseRate, Description, Rows, Users
from purchase_predict.report.contents import Contents, contributions
from purchase_predict.report.lineage import Step
from purchase_predict.report.page import render

SCRIPT = "<script>alert('x')</script>"


def contents(
    rows: int = 600,
    random: bool = False,
    suspicious: dict[str, float] | None = None,
    correction: dict[str, float] | None = None,
) -> Contents:
    """What a page is made of, from a real booster; a category, a feature and a run are named like an attack."""
    rng = np.random.default_rng(0)
    price, views = rng.random(rows) * 100, rng.integers(0, 9, rows).astype(float)
    brand = rng.integers(0, 4, rows).astype(float)
    x = np.column_stack([price, views, brand])
    chance = np.full(rows, 0.5) if random else 1 / (1 + np.exp(0.06 * (price - 50)))
    y = (rng.random(rows) < chance).astype(int)
    features = ["price", "num_views_product", SCRIPT]
    data = lightgbm.Dataset(x, y, categorical_feature=[2])
    booster = lightgbm.train({"objective": "binary", "verbosity": -1, "num_threads": 1}, data, 20)
    probability = rng.random(rows) if random else np.asarray(booster.predict(x))
    users = rng.integers(0, 200, rows)
    frame = pd.DataFrame(
        {
            "user_id": users,
            "category": rng.choice([SCRIPT, "a-very-long-category-name-without-any-place-to-break-it" * 2, None], rows),
            "price": price,
            "num_prev_sessions": rng.integers(0, 2, rows),
        }
    )
    pushes, ranks = contributions(booster, x, features, [SCRIPT])
    return Contents(
        metric="roc_auc",
        scores=scores.evaluate(y, probability, users, 0.4, 0.5),
        threshold=0.4,
        calibration=Calibration(correction, metrics.Difference(0.0123, -0.001, 0.03)),
        calibration_error_before=0.2222,
        curves=curves(y, probability),
        slices=weaknesses.slices(frame, y, probability),
        tradeoff=weaknesses.tradeoff(y, probability, users),
        suspicious=suspicious or {},
        importance=scores.share_of_gain(features, booster.feature_importance("gain")),
        contributions=pushes,
        feature_ranks=ranks,
        trials=pd.DataFrame(
            {
                "number": [0, 1, 2, 3],
                "state": ["finished", "finished", "pruned", "failed"],
                "score": [0.70, 0.72, None, None],
                "first_folds_score": [0.70, 0.72, 0.6, None],
                "rounds": [50, 60, 20, 0],
                "seconds": [1.0, 1.0, 0.5, 0.1],
                "learning_rate": [0.1, 0.004, 0.3, 0.2],
                "lambda_l1": [0.0, 1.0, 0.1, 0.1],
            }
        ),
        description=Description(
            split="time",
            test_ratio=0.3,
            cut="2019-10-24 00:00:00",
            rows=Rows(2010, 10, 1400, rows),
            users=Users(500, 200),
            base_rate=BaseRate(0.5, float(y.mean())),
            features=features,
            categories={},
            profile={},
        ),
        steps=[
            Step("load", "reused", "0123456789abcdef0123456789abcdef", "https://mlflow.example.org/#/x?a=1&b=2"),
            Step(SCRIPT, "ran", "fedc", "javascript:alert(1)"),
        ],
    )


class _Elements(HTMLParser):
    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in ("meta", "link"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_names_from_the_data_cannot_become_markup() -> None:
    text = render(contents())
    elements = _Elements(text)
    assert elements.open == []
    assert "script" not in {tag for tag, _ in elements.seen}
    assert text.count("&lt;script&gt;") >= 4  # a slice, the features, the drawing, the step
    links = [attributes["href"] for tag, attributes in elements.seen if tag == "a"]
    assert links == ["https://mlflow.example.org/#/x?a=1&b=2"]


def test_the_page_asks_nothing_of_the_outside() -> None:
    text = render(contents())
    elements = _Elements(text)
    assert [attributes for _, attributes in elements.seen if "src" in attributes] == []
    assert [attributes["href"] for tag, attributes in elements.seen if tag == "link"] == ["data:,"]
    style = text[text.index("<style>") : text.index("</style>")]
    assert "--ink" in style
    assert "url(" not in style
    assert "@import" not in style


def test_the_answer_states_its_uncertainty_and_a_coin_is_called_one() -> None:
    shown = contents()
    area = shown.scores["roc_auc"]
    text = render(shown)
    assert "Yes, better than chance" in text
    assert f"{100 * area.value:.1f}&nbsp;% of all pairs" in text
    assert f"interval {100 * area.low:.1f}&nbsp;% to {100 * area.high:.1f}&nbsp;%" in text
    assert "Not surely" in render(contents(random=True))


def test_every_metric_stands_beside_its_baseline() -> None:
    shown = contents()
    text = render(shown)
    for score in shown.scores.values():
        assert f"<td>{score.low:.4f} to {score.high:.4f}</td><td>{score.baseline:.4f}</td>" in text


def test_the_page_says_whether_the_probabilities_were_corrected_and_what_for() -> None:
    assert "a correction would not surely help (log loss out of fold better by 0.01230" in render(contents())
    shown = contents(correction={"slope": 1.2, "intercept": 0.0})
    after = shown.scores["calibration_error"].value
    assert f"the calibration error on the test rows goes from 0.2222 to {after:.4f}." in render(shown)


def test_a_suspicious_feature_is_named_before_the_answer() -> None:
    text = render(contents(suspicious={"num_views_<b>": 1.0}))
    assert text.index("Suspicious: num_views_&lt;b&gt;.") < text.index('class="answer"')
    assert "Suspicious" not in render(contents())


def test_the_pushes_and_the_mean_answer_add_up_to_each_answer() -> None:
    rng = np.random.default_rng(1)
    x = rng.random((300, 2))
    data = lightgbm.Dataset(x, (x[:, 0] + rng.random(300) > 1).astype(int))
    booster = lightgbm.train({"objective": "binary", "verbosity": -1, "num_threads": 1}, data, 10)
    pushes, ranks = contributions(booster, x, ["strong", "noise"], [])
    answers = np.sort(booster.predict(x, raw_score=True)) - np.sort(pushes.sum(axis=1))
    assert np.ptp(answers) == pytest.approx(0, abs=1e-9)
    assert pushes["strong"].abs().mean() > 3 * pushes["noise"].abs().mean()
    assert ranks["strong"].between(0, 1).all()


def test_the_best_so_far_never_falls_back() -> None:
    text = render(contents())
    after = text[text.index("<h2>The search</h2>") :]
    line = re.search(r'<polyline class="line" points="([^"]+)"', after)
    assert line
    heights = [float(point.split(",")[1]) for point in line.group(1).split()]
    assert heights == sorted(heights, reverse=True)  # SVG counts downwards
    assert "learning_rate, power of ten" in after


def test_a_split_by_user_and_a_part_of_one_class_are_named() -> None:
    shown = contents()
    part = dataclasses.replace(shown.slices[0], name="only buyers", roc_auc=None)
    by_user = dataclasses.replace(
        shown,
        slices=[part],
        description={**shown.description, "split": "user", "cut": None},
        steps=[Step("load", "ran")],
    )
    text = render(by_user)
    assert _Elements(text).open == []
    assert "one class only" in text
    assert '<td class="name">by user</td>' in text
    assert "<code>" not in text
