"""Simulates how often the gate promotes models without and with skill if few users have most rows of a class.

    python -m benchmarks.few_buyers --draws 2000

Prints the table of the section "The gate with few buyers" in BENCHMARKS.md. Each draw is a simulated test set. A user
bought either all or none of their rows, and a model gives all rows of a user the same score. The score of a model
without skill does not depend on the label.
"""

import math
import multiprocessing
from collections.abc import Callable
from dataclasses import dataclass

import click
import numpy as np

from purchase_predict.evaluation.few_users import MIN_USERS, effective_users, widening
from purchase_predict.evaluation.scores import INTERVAL_QUANTILES, RESAMPLES, baselines
from purchase_predict.metrics import SEARCHABLE, Score
from purchase_predict.registry.gate import decide

#: In each test set, one class has few users. This is the number of users of the other class, with one row each.
_OTHERS = 120
#: The share of users for whom a model without skill answers "will buy". Only F1 depends on it.
_DECIDED = 0.9
#: How much higher a model with skill scores buyers, in standard deviations of the score. 1.0 is a ROC AUC of 0.76.
_SKILL = 1.0
#: The standard deviation of the log-odds of a model without skill.
_SPREAD = 0.5
#: The number of parts into which the draws of a case are divided. One process per core computes them.
_PARTS = 8

#: A function that draws the number of rows of each user of the class with few users.
Rows = Callable[[np.random.Generator], np.ndarray]


def equal(users: int) -> Rows:
    """Users with one row each."""
    return lambda rng: np.ones(users, int)


def skewed(users: int, large: int, share: float) -> Rows:
    """`large` users have this share of the rows together. Within each of the two groups, all have equally many rows."""
    rows = 20 * users
    sizes = [round(share * rows / large)] * large + [max(1, round((1 - share) * rows / (users - large)))] * (
        users - large
    )
    return lambda rng: np.array(sizes)


def pareto(users: int, exponent: float) -> Rows:
    """Users whose numbers of rows have a Pareto tail."""
    return lambda rng: np.ceil(rng.pareto(exponent, users) + 1e-9).astype(int)


CASES: dict[str, Rows] = {
    **{f"{users} equal": equal(users) for users in (1, 2, 3, 5, 10, 20)},
    "20, of whom 4 have 95 % of the rows": skewed(20, 4, 0.95),
    "20, of whom 1 has 60 %": skewed(20, 1, 0.60),
    "20, Pareto (exponent 1.2)": pareto(20, 1.2),
    "100, Pareto (exponent 1.2)": pareto(100, 1.2),
    "100, of whom 1 has 25 %": skewed(100, 1, 0.25),
    "100, of whom 4 have 60 %": skewed(100, 4, 0.60),
    "100, of whom 5 have 50 %": skewed(100, 5, 0.50),
    "200 equal": equal(200),
}


@dataclass(frozen=True)
class Users:
    """A simulated test set: one value per user in each array, in the order of the users' scores, the highest first.

    Attributes:
        bought: the number of bought rows.
        others: the number of other rows.
        probability: the probability of the user's rows, 0 to 1.
    """

    bought: np.ndarray
    others: np.ndarray
    probability: np.ndarray

    @property
    def rate(self) -> float:
        """The share of bought rows."""
        return float(self.bought.sum() / (self.bought.sum() + self.others.sum()))


def metrics_of(users: Users, weights: np.ndarray, decided: int) -> dict[str, np.ndarray]:
    """The metrics of `SEARCHABLE` for many resamples at once.

    Args:
        users: the users.
        weights: how often each user is drawn in each resample: one row per resample, one column per user.
        decided: the number of users, from the first on, for whom the model answers "will buy".
    """
    bought, others = weights * users.bought, weights * users.others
    hits, misses = bought.cumsum(1), others.cumsum(1)
    all_hits, rows, first = hits[:, -1], hits[:, -1] + misses[:, -1], slice(0, decided)
    loss = -(bought @ np.log(users.probability) + others @ np.log1p(-users.probability))
    found, told = bought[:, first].sum(1), (bought + others)[:, first].sum(1)
    with np.errstate(invalid="ignore", divide="ignore"):
        one_class = np.where((all_hits == 0) | (all_hits == rows), np.nan, 1.0)
        precision = hits / np.maximum(hits + misses, 1)
        return {
            "roc_auc": one_class * (others * (hits - bought / 2)).sum(1) / (all_hits * misses[:, -1]),
            "average_precision": one_class * (bought * precision).sum(1) / all_hits,
            "log_loss": loss / rows,
            "f1": found / np.maximum((told + all_hits) / 2, 1e-15),
        }


def drawn(rng: np.random.Generator, rows: Rows, few_buy: bool, skill: float) -> Users:
    """Draws a test set. The few users are the buyers if `few_buy`, else those who did not buy."""
    few = rows(rng)
    sides = (
        np.concatenate([few, np.zeros(_OTHERS, int)]),
        np.concatenate([np.zeros(len(few), int), np.ones(_OTHERS, int)]),
    )
    bought, others = sides if few_buy else sides[::-1]
    score = rng.normal(size=len(bought)) + skill * (bought > 0)
    order = np.argsort(-score)
    spread, centre = (skill, skill / 2) if skill else (_SPREAD, 0.0)
    log_odds = math.log(bought.sum() / others.sum()) + spread * (score[order] - centre)
    return Users(bought[order], others[order], 1 / (1 + np.exp(-log_odds)))


def scores_of(users: Users, rng: np.random.Generator, decided: int) -> dict[str, Score]:
    """The scores as `evaluation.scores.evaluate` computes them for the users' rows, but with other random resamples."""
    count = len(users.bought)
    drawn = rng.integers(0, count, (RESAMPLES, count)) + count * np.arange(RESAMPLES)[:, None]
    weights = np.bincount(drawn.ravel(), minlength=RESAMPLES * count).reshape(RESAMPLES, count)
    value, resampled = (metrics_of(users, w, decided) for w in (np.ones((1, count)), weights))
    y = np.repeat([1, 0], [users.bought.sum(), users.others.sum()])
    constant = baselines(users.rate, y)
    interval = {metric: np.nanquantile(resampled[metric], INTERVAL_QUANTILES) for metric in SEARCHABLE}
    return {
        metric: Score(float(value[metric][0]), float(low), float(high), constant[metric])
        for metric, (low, high) in interval.items()
    }


def promoted(case: str, few_buy: bool, skill: float, draws: int, seed: int) -> np.ndarray:
    """For each metric of `SEARCHABLE`, the number of draws in which the gate promotes the model."""
    rng = np.random.default_rng([seed, few_buy])
    passed = np.zeros(len(SEARCHABLE), int)
    for _ in range(draws):
        users = drawn(rng, CASES[case], few_buy, skill)
        classes = [np.repeat(np.arange(len(side)), side).tolist() for side in (users.bought, users.others)]
        count = min(map(effective_users, classes))
        if count < MIN_USERS:
            continue  # the gate refuses the model, whatever its scores
        decided = round(len(users.bought) * (_DECIDED if not skill else float(np.mean(users.bought > 0))))
        if metrics_of(users, np.ones((1, len(users.bought))), decided)["roc_auc"][0] <= 0.5:
            continue  # refused, too: the interval of its roc_auc begins below the baseline of 0.5
        scores, wider = scores_of(users, rng, decided), max(map(widening, classes))
        passed += [decide(metric, scores, None, users=count, widening=wider).passed for metric in SEARCHABLE]
    return passed


def share(case: str, few_buy: bool, skill: float, draws: int) -> np.ndarray:
    """For each metric, the share of draws in which the gate promotes the model. `draws`: a multiple of `_PARTS`."""
    with multiprocessing.Pool() as pool:
        parts = [(case, few_buy, skill, draws // _PARTS, part) for part in range(_PARTS)]
        return np.sum(pool.starmap(promoted, parts), axis=0) / draws


@click.command()
@click.option("--draws", default=2000, show_default=True, help="Draws without skill of each case; a tenth with skill.")
def main(draws: int) -> None:
    """Prints the table."""
    draws, fewer = (_PARTS * max(1, count // _PARTS) for count in (draws, draws // 10))
    click.echo(f"| users of one class | this class is the | {' | '.join(SEARCHABLE)} | with skill |")
    click.echo("|---|---|" + "---:|" * (len(SEARCHABLE) + 1))
    for name in CASES:
        for few_buy in (True, False):
            noise = 100 * share(name, few_buy, 0.0, draws)
            error = 100 * np.sqrt(noise / 100 * (1 - noise / 100) / draws)
            shown = " | ".join(f"{rate:.1f} ± {of:.1f}" for rate, of in zip(noise, error, strict=True))
            power = 100 * share(name, few_buy, _SKILL, fewer)[SEARCHABLE.index("roc_auc")]
            click.echo(f"| {name} | {'buyers' if few_buy else 'others'} | {shown} | {power:.0f} |")


if __name__ == "__main__":
    main()
