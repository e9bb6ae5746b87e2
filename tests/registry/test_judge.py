"""How a challenger is judged, and which numbers the gate receives. Most tests use a stand-in for the test rows."""

from collections.abc import Callable
from dataclasses import dataclass, field

import click
import mlflow
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mlflow.entities.model_registry import ModelVersion

from purchase_predict.evaluation.few_users import MIN_USERS
from purchase_predict.metrics import Compared, Difference, Score
from purchase_predict.models.held_out import HeldOutRows
from purchase_predict.registry import promotion
from purchase_predict.registry.journal import Author
from purchase_predict.registry.judge import Judgement, Rules, judge
from purchase_predict.registry.versions import get_version
from purchase_predict.schema import LABEL
from purchase_predict.workflow.models import MODEL_SOURCE
from tests.registered import empty_versions

RULES = Rules("roc_auc", 0.0, 0.0, False)


def fails(uri: str) -> None:
    raise click.ClickException(f"{uri} is gone")


@dataclass
class Rows:
    """Stands for test rows on which every challenger beats its champion.

    Attributes:
        trained_on: called with a model's URI; raises if the model's training rows are unknown.
        predicts: called with a model's URI; raises if the model cannot predict.
        compared: the URIs of the champions that a challenger was compared with.
        users_of_the_rarer_class, count, widening: as in `HeldOutRows`.
    """

    users_of_the_rarer_class: int = 100
    trained_on: Callable[[str], None] = lambda uri: None
    predicts: Callable[[str], None] = lambda uri: None
    count: int = 1000
    compared: list[str] = field(default_factory=list)
    widening: float = 1.0

    def unseen_by(self, uri: str) -> "Rows":
        self.trained_on(uri)
        return self

    def scores(self, uri: str) -> dict[str, Score]:
        self.predicts(uri)
        return {"roc_auc": Score(0.8, 0.75, 0.85, 0.5)}

    def compare(self, challenger: str, champion: str) -> dict[str, Compared]:
        self.predicts(champion)
        self.compared.append(champion)
        return {"roc_auc": Compared(0.8, 0.7, Difference(0.1, 0.05, 0.15))}


def of(number: int) -> Callable[[str], None]:
    """A function that fails for the URI of the version with this number."""
    return lambda uri: fails(uri) if uri.endswith(f"/{number}") else None


@pytest.fixture(scope="module")
def pair(shared_store: str) -> list[ModelVersion]:
    """A champion of staging and a challenger."""
    made = empty_versions("pair", 2)
    mlflow.MlflowClient().set_registered_model_alias("pair", "staging", made[0].version)
    return made


def judged(pair: list[ModelVersion], rows: Rows) -> Judgement:
    return judge(pair[1], "staging", rows, RULES)


def test_a_better_challenger_passes(pair: list[ModelVersion]) -> None:
    assert judged(pair, Rows()).promoted


def test_a_champion_whose_training_rows_are_unknown_is_not_compared(pair: list[ModelVersion]) -> None:
    rows = Rows(trained_on=of(1))
    judgement = judged(pair, rows)
    assert not judgement.promoted
    assert rows.compared == []
    assert judgement.contest is None
    assert judgement.decision.reason == (
        "not comparable: the training rows of the champion (version 1) are not known (models:/pair/1 is gone), "
        "so the test rows may be among them: decide yourself with mlflow run . -e rollback --env-manager "
        "local -P registry_name=pair -P version=2 -P env=staging -P allow_failed=true; note that the "
        "training source of the challenger and the champion is not known"
    )


def test_it_gives_way_if_it_cannot_predict_either(pair: list[ModelVersion]) -> None:
    judgement = judged(pair, Rows(trained_on=of(1), predicts=of(1)))
    assert judgement.promoted
    assert "the champion cannot predict: models:/pair/1 is gone" in judgement.decision.reason


def test_a_challenger_whose_training_rows_are_unknown_fails(pair: list[ModelVersion]) -> None:
    with pytest.raises(click.ClickException, match=r"training rows of version 2 are not known .*: train again"):
        judged(pair, Rows(trained_on=of(2)))


@pytest.mark.parametrize("users", [0, 1, MIN_USERS - 1, MIN_USERS])
def test_the_gate_gets_the_users_of_the_rarer_class(users: int, shared_store: str) -> None:
    name = f"users-{users}"
    judgement = judge(empty_versions(name, 1)[0], "staging", Rows(users), RULES)
    assert judgement.promoted == (users >= MIN_USERS)
    assert judgement.decision.reason.startswith("too few users to tell") == (users < MIN_USERS)


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=1, max_size=40))
def test_users_are_counted_and_not_rows(carts: list[tuple[int, bool]]) -> None:
    rows = HeldOutRows(pd.DataFrame({"user_id": [u for u, _ in carts], LABEL: [int(b) for _, b in carts]}), 0.5)
    sides = [[user for user, bought in carts if bought == wanted] for wanted in (True, False)]
    expected = [len(side) ** 2 / sum(side.count(user) for user in side) if side else 0.0 for side in sides]
    assert rows.users_of_the_rarer_class == pytest.approx(min(expected))
    assert min(expected) <= min(len(set(side)) for side in sides)


def test_many_rows_of_one_buyer_are_one_user() -> None:
    rows = pd.DataFrame({"user_id": [1] * 500 + list(range(2, 502)), LABEL: [1] * 500 + [0] * 500})
    assert HeldOutRows(rows, 0.5).users_of_the_rarer_class == 1


def test_a_rollback_in_one_environment_counts_until_that_environment_is_given_back(shared_store: str) -> None:
    name, author = "two-environments", Author("anna", "0123")
    first, second = empty_versions(name, 2)
    for env in ("staging", "production"):
        assert promotion.promote(first, env, None, author)
    assert promotion.promote(second, "production", first, author)
    assert promotion.roll_back(second, first, "production", "by anna", author, blame=True)
    assert "rolled back by anna" in judge(second, "staging", Rows(), RULES).decision.reason

    # The user gives staging, the other environment, to version 2.
    target = get_version(name, second.version)
    assert target
    assert promotion.roll_back(first, target, "staging", "by anna", author, blame=False)
    assert judge(second, "staging", Rows(), RULES).promoted, "it holds staging"
    in_production = judge(second, "production", Rows(), RULES)
    assert not in_production.promoted
    assert "rolled back by anna" in in_production.decision.reason


@pytest.mark.parametrize(
    ("sources", "note"),
    [
        (("shop", "shop"), ""),
        (("shop", None), "source of the champion is not known"),
        ((None, "shop"), "the challenger is not known"),
        ((None, None), "the challenger and the champion is not known"),
    ],
)
def test_an_unknown_source_is_noted(sources: tuple[str | None, str | None], note: str, shared_store: str) -> None:
    name = f"sources {sources}".replace("'", "")
    champion, challenger = empty_versions(name, 2)
    for version, source in zip((challenger, champion), sources, strict=True):
        if source is not None:
            mlflow.MlflowClient().set_model_version_tag(name, version.version, MODEL_SOURCE, source)
    mlflow.MlflowClient().set_registered_model_alias(name, "staging", champion.version)
    reason = judge(challenger, "staging", Rows(), RULES).decision.reason
    assert ("is not known" in reason) == bool(note)
    assert reason.endswith(note)
    assert "not known" not in judge(champion, "staging", Rows(), RULES).decision.reason
