"""Models compared on the same held-out rows, each loaded as its users load it."""

from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path

import pandas as pd

from purchase_predict.evaluation.scores import Answers, difference, evaluate
from purchase_predict.metrics import Difference, Score
from purchase_predict.models import packaging, scoring
from purchase_predict.schema import LABEL


class HeldOutRows:
    """Labelled rows that a training did not hold. Each model answers them once."""

    def __init__(
        self, rows: pd.DataFrame, train_rate: float, files_of: Callable[[str], Mapping[str, str]] = lambda uri: {}
    ) -> None:
        """Takes the rows.

        Args:
            rows: features, label and `user_id`.
            train_rate: the share of purchases among the training rows, 0 to 1: the constant answer.
            files_of: the checksums that the files of a model, named by URI, must have.
        """
        self.rows, self.train_rate, self.files_of = rows, train_rate, files_of
        self.y, self.users = rows[LABEL].to_numpy(), rows["user_id"].to_numpy()
        self.answers = cache(self._answers)

    @classmethod
    def read(cls, file: Path, train_rate: float, files_of: Callable[[str], Mapping[str, str]]) -> "HeldOutRows":
        """The rows of a Parquet file."""
        return cls(pd.read_parquet(file), train_rate, files_of)

    @property
    def users_of_the_rarer_class(self) -> int:
        """How many different users have rows that were bought, or rows that were not, whichever is less."""
        return min(len(set(self.users[self.y == label])) for label in (0, 1))

    def scores(self, uri: str) -> dict[str, Score]:
        """Every metric of the model at `uri`.

        Raises:
            click.ClickException: it cannot be loaded, or it cannot answer these rows.
        """
        answers: Answers = self.answers(uri)
        return evaluate(self.y, answers.probability, self.users, answers.threshold, self.train_rate)

    def difference(self, metric: str, challenger: str, champion: str) -> Difference:
        """How much better one model is than another, both named by URI.

        Raises:
            click.ClickException: one of them cannot be loaded, or it cannot answer these rows.
        """
        return difference(metric, self.y, self.users, self.answers(challenger), self.answers(champion))

    def _answers(self, uri: str) -> Answers:
        return scoring.answers(packaging.load(uri, self.files_of(uri)), self.rows)
