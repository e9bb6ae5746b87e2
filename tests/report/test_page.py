import dataclasses
import re
from html.parser import HTMLParser

import lightgbm
import numpy as np
import pytest

from purchase_predict.evaluation import promo_codes
from purchase_predict.evaluation.curves import curves
from purchase_predict.evaluation.promo_codes import Money
from purchase_predict.metrics import Score
from purchase_predict.report.contents import contributions
from purchase_predict.report.lineage import Origin, Step
from purchase_predict.report.page import render
from tests.report.pages import contents


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


def test_beside_a_link_stands_what_opens_it() -> None:
    shown = contents()
    assert "Ctrl-click, Cmd-click or middle-click" not in render(shown), "its train run has no link"
    for needs_ui in (True, False):
        train = Step("train", "ran", "cafe", "http://127.0.0.1:5000/#/x", needs_ui)
        text = render(dataclasses.replace(shown, origin=Origin(steps=[train])))
        assert text.count("In MLflow's Artifacts tab, open a link by Ctrl-click, Cmd-click or middle-click.") == 2
        assert text.count("Links work while <code>mlflow ui</code> runs") == 2 * needs_ui
        assert '<a href="http://127.0.0.1:5000/#/x" target="_blank" rel="noopener">' in text


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
    assert "<h1>How well does the model predict whether" in text
    assert "<strong>Better than chance.</strong>" in text
    assert f"interval of ROC AUC, {area.low:.4f} to {area.high:.4f}, lies above 0.5000." in text
    coin = contents(random=True)
    assert "<strong>Not shown to be better than chance.</strong>" in render(coin)
    assert ", includes 0.5000." in render(coin)
    worse = {**coin.scores, "roc_auc": Score(0.4, 0.3, 0.45, 0.5)}
    assert "0.3000 to 0.4500, lies below 0.5000." in render(dataclasses.replace(coin, scores=worse))


def test_a_metric_and_a_threshold_have_one_form_wherever_they_stand() -> None:
    shown = contents()
    text = render(dataclasses.replace(shown, threshold=0.34162))
    assert text.count(f"{shown.scores['roc_auc'].value:.4f}") == 4  # header, table, and twice for weak segments
    assert re.findall(r"0\.34\d*", text) == ["0.342"] * 4
    for name in ("precision", "recall"):
        assert (
            f"{name}\n        {shown.scores[name].value:.4f}. " in text
            or f"{name} {shown.scores[name].value:.4f}. " in text
        )
    for part in (part.roc_auc for part in shown.slices if part.roc_auc):
        assert f"<td>{part.value:.4f}<small>{part.low:.4f} to {part.high:.4f}</small>" in text


def test_the_header_says_what_is_expected_what_lies_above_the_threshold_and_what_happened() -> None:
    shown = contents()
    text = render(shown)
    assert f"<strong>about {shown.expected:,.0f}</strong>" in text
    assert f"among 600 test carts; {shown.bought} carts were bought" in text
    above = f"carts above the threshold 0.400; {shown.confusion.true_positives} of them were bought"
    assert "The model expected" not in text
    assert "The model expected 20&nbsp;% fewer purchases" in render(
        dataclasses.replace(shown, expected=0.8 * shown.bought)
    )
    assert f"<strong>{shown.above}</strong>\n      {above}" in text


def test_the_page_says_where_the_model_comes_from() -> None:
    shown = contents()
    text = render(shown)
    date, source = "29 Nov 2026, 09:05 UTC", "/data/&lt;script&gt;"
    facts = (source, date, shown.origin.commit, "13 of 20,013", "0 or more (11)")
    assert [fact for fact in facts if fact not in text] == []
    assert "Synthetic sample" not in text
    sample = render(dataclasses.replace(shown, origin=Origin(source="sample:20000", uncommitted=True)))
    assert "Synthetic sample" in sample
    assert "and uncommitted changes" in sample
    assert "the run of load was deleted" in sample


def test_codes_have_cut_offs_and_with_money_what_they_cost() -> None:
    shown = contents()
    text = render(shown)
    for choice in shown.choices:
        assert f"below {choice.unlikely.below:.3f}" in text
        assert f"{choice.undecided.above:.3f} to {choice.undecided.below:.3f}" in text
    assert "<th>given away" not in text
    money = Money(12, 3)
    text, group = render(dataclasses.replace(shown, money=money)), shown.choices[1].unlikely
    wins = f"pays if it wins more than {100 * group.break_even(money):.1f}&nbsp;% of the others"
    assert f"{1000 * group.given_away(money):,.2f}<small>{wins}</small>" in text
    assert "never pays" in render(dataclasses.replace(shown, money=Money(3, 3)))


def test_a_middle_that_is_decided_is_not_called_undecided() -> None:
    shown = contents()
    assert "most of these visitors are in fact" not in render(shown)
    decided = dataclasses.replace(shown.choices[1].undecided, buyers=0.19, others=0.01)
    choice = dataclasses.replace(shown.choices[1], undecided=decided)
    text = render(dataclasses.replace(shown, choices=[choice]))
    assert "190 buyers in 200 carts, so\n        most of these visitors are in fact likely to buy." in text


def test_a_model_that_tells_no_carts_apart_has_a_page() -> None:
    y, constant, users = np.arange(100) % 2, np.full(100, 0.5), np.arange(100)
    shown = dataclasses.replace(
        contents(), choices=promo_codes.choices(y, constant, users), curves=curves(y, constant), money=Money(12, 3)
    )
    assert _Elements(render(shown)).open == []


def test_the_weakest_part_comes_first_and_is_named() -> None:
    shown = contents()
    values = [part.roc_auc.value for part in shown.slices if part.roc_auc]
    assert values == sorted(values)
    assert f"The weakest segment of the test rows is {shown.slices[0].by} “{shown.slices[0].name}”" in render(shown)


def test_sentences_that_had_to_be_read_twice_are_gone() -> None:
    text = " ".join(render(dataclasses.replace(contents(), money=Money(12.0, 3.0))).split())
    assert "how often a bought cart gets a higher probability than a cart that was not bought" in text
    assert "of the others</small>" in text
    assert "A code <em>wins</em> one of the others if that visitor buys because of the code." in text
    assert "assume that no visitor in the data got a code; the data do not say whether that is true" in text
    assert "Compare the purchase rates of the two halves." in text
    assert "4 trials (2 finished, 1 pruned, 1 failed) in 2.6 s. The first trial uses LightGBM's defaults." in text
    assert re.search(r"In \d+ of \d+ segments, the whole interval lies|No segment is shown to be weaker than", text)


def test_every_metric_stands_beside_its_baseline() -> None:
    shown = contents()
    text = render(shown)
    for score in shown.scores.values():
        assert f"<td>{score.low:.4f} to {score.high:.4f}</td><td>{score.baseline:.4f}</td>" in text


def test_the_page_says_whether_the_probabilities_were_corrected_and_what_for() -> None:
    assert "not shown to improve them (reduction of the out-of-fold log loss: 0.01230" in render(contents())
    shown = contents(correction={"slope": 1.2, "intercept": 0.0})
    after = shown.scores["calibration_error"].value
    assert f"error on the test rows is 0.2222 without the correction and {after:.4f} with it." in render(shown)


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
    assert heights == sorted(heights, reverse=True)  # in SVG, y grows downwards
    assert "log10(learning_rate)" in after


def test_a_split_by_user_and_a_part_of_one_class_are_named() -> None:
    shown = contents()
    part = dataclasses.replace(shown.slices[0], name="only buyers", roc_auc=None, few=("non-buyers",))
    by_user = dataclasses.replace(
        shown,
        slices=[part],
        description=dataclasses.replace(shown.description, split="user", cut=None),
        origin=Origin(steps=[Step("load", "ran")]),
    )
    text = render(by_user)
    assert _Elements(text).open == []
    assert "too few non-buyers to judge" in text
    assert "are not judged" in text
    assert "are not judged" not in render(dataclasses.replace(shown, slices=shown.slices[:1]))
    assert '<td class="name">by user</td>' in text
    assert "/runs/" not in text


def test_past_weeks_stand_beside_the_constant_answer_and_what_is_left_out_is_said() -> None:
    shown = contents()
    assert shown.backtest
    text = render(shown)
    after = text[text.index("How the model would have done in the past") : text.index("<h2>The search</h2>")]
    assert shown.backtest.verdict in after
    assert "The model gets better with time" in after
    assert "2 earlier weeks are left out" in after
    assert after.count("too few buyers or non-buyers in or before this week") == 1
    assert after.count("not counted for the trend: the model gave every cart the same answer") == 1
    assert "26 Aug 2019" in after
    for period in shown.backtest.scored:
        area = period.scores["roc_auc"]
        assert (
            f"{area.value:.4f}<small>{area.low:.4f} to {area.high:.4f}</small><small>baseline 0.5000</small>" in after
        )
    assert after.count('<circle class="dot"') == len(shown.backtest.scored)
    without = render(dataclasses.replace(shown, backtest=None))
    assert "Not measured: the backtest was switched off (<code>backtest=false</code>)." in without
    by_user = dataclasses.replace(shown.description, split="user", cut=None)
    assert "Not measured: the rows have no event times." in render(
        dataclasses.replace(shown, backtest=None, description=by_user)
    )


def test_the_page_shows_the_parameters_of_each_fit_that_the_model_is_the_mean_of() -> None:
    shown = contents()
    text = render(shown)
    assert "The model is the mean of 2 fits" in text
    assert "<th>trial 2</th><th>trial 1</th>" in text
    assert '<td class="name">num_leaves</td><td>31</td><td>128</td>' in text
    assert "the score of the mean prediction of the 2 chosen trials" in text
    single = render(dataclasses.replace(shown, members=shown.members[:1]))
    assert "boosting rounds&nbsp;120," in single
    assert "num_leaves&nbsp;31." in single
    assert "chosen trials" not in single


def test_the_folds_are_listed_with_their_spans() -> None:
    text = render(contents())
    assert "Each trial was scored on 3 folds that follow time." in text
    assert "<small>2019-10-16 00:00 to 2019-10-19 12:30</small>" in text
    assert text.count("<td>0.7100</td>") == 3
    by_user = dataclasses.replace(contents(), folds=[dataclasses.replace(contents().folds[0], start="", end="")])
    assert '<td class="name">1</td>' in render(by_user)
