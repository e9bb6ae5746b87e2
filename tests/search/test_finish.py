"""The final fit within a time limit."""

import lightgbm
import numpy as np
import pytest

from purchase_predict.search import finish
from purchase_predict.search.folds import grouped_folds
from purchase_predict.search.objective import Objective
from purchase_predict.search.space import DEFAULTS, STARTING_POINTS
from tests.search.tables import table


class Ticking:
    """A simulated clock that advances by 1 s with each boosting round, and only then.

    The final fit sees 1 core, so its members are fitted one after the other.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        update = lightgbm.Booster.update

        def updated(booster: lightgbm.Booster) -> bool:
            self.now += 1
            return bool(update(booster))

        monkeypatch.setattr(finish.time, "monotonic", lambda: self.now)
        monkeypatch.setattr(lightgbm.Booster, "update", updated)
        monkeypatch.setattr(finish, "available_cores", lambda: 1)


def test_the_final_fit_is_shortened_when_time_is_short(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, whole = Ticking(monkeypatch), table()
    evaluate = Objective(whole, grouped_folds(whole, 4, 1), "roc_auc", 1)
    best = evaluate(0, DEFAULTS, None)
    rounds = best.rounds * (4 / 3) ** (1 / 3)

    def fitted(seconds: float) -> tuple[float, int]:
        booster, (member,) = finish.final_fit([best], evaluate, whole, clock.now + seconds)
        assert member.rounds == booster.current_iteration()
        return member.params["learning_rate"], member.rounds

    for seconds, divisor in (
        (np.inf, 2.0),
        (finish.TIMED_ROUNDS + 10 * rounds, 2.0),
        (finish.TIMED_ROUNDS + 1.5 * rounds, 1.5),
    ):
        rate, done = fitted(seconds)
        assert rate == pytest.approx(0.1 / divisor, rel=0.02)
        assert done == pytest.approx(rounds * divisor, abs=1)
    for seconds, share in ((finish.TIMED_ROUNDS + 0.4 * rounds, 0.8), (0.0, 0.5)):
        rate, done = fitted(seconds)
        assert rate == pytest.approx(0.2)
        assert done == pytest.approx(rounds / 2 * share, abs=2)


def test_with_little_time_fewer_trials_become_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, whole = Ticking(monkeypatch), table()
    evaluate = Objective(whole, grouped_folds(whole, 4, 1), "roc_auc", 1)
    chosen = [evaluate(number, point, None) for number, point in enumerate(STARTING_POINTS[:3])]
    rounds = [trial.rounds * (4 / 3) ** (1 / 3) for trial in chosen]

    def fitted(seconds: float) -> tuple[int, float]:
        """The number of members, and the divisor of the first one's learning rate."""
        timed = 3 * finish.TIMED_ROUNDS
        _, members = finish.final_fit(chosen, evaluate, whole, clock.now + timed + seconds)
        assert [member.trial for member in members] == [0, 1, 2][: len(members)]
        return len(members), round(chosen[0].params["learning_rate"] / members[0].params["learning_rate"], 1)

    assert fitted(np.inf) == fitted(10 * sum(rounds)) == (3, 2.0)
    assert fitted(1.5 * sum(rounds)) == (3, 1.5)
    assert fitted(1.5 * sum(rounds[:2])) == (2, 1.5) or rounds[2] < 0.5 * sum(rounds[:2])
    assert fitted(0.9 * sum(rounds[:2]))[0] == 1
    assert fitted(0.0) == (1, 0.5)
