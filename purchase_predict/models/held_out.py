"""Compares models on the same held-out rows. Each model is loaded in the same way as its users load it."""

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

import pandas as pd

from purchase_predict.evaluation.few_users import effective_users, widening
from purchase_predict.evaluation.scores import Answers, compare, evaluate
from purchase_predict.metrics import Compared, Score
from purchase_predict.models import packaging, scoring
from purchase_predict.schema import LABEL

#: The columns that identify a session. A session id that several users share counts as one session for each user.
_SESSION = ("user_id", "user_session")


@dataclass(frozen=True)
class ModelFiles:
    """Finds files of a model by the model's URI.

    Attributes:
        checksums: the checksums that the model's files must have.
        training_rows: the Parquet file of the model's training rows; None if they share no session with the held-out
            rows.
    """

    checksums: Callable[[str], Mapping[str, str]] = lambda uri: {}
    training_rows: Callable[[str], Path | None] = lambda uri: None


class HeldOutRows:
    """Labelled rows that were held out of a training. Each model scores them once; the answers are kept."""

    def __init__(self, rows: pd.DataFrame, train_rate: float, files: ModelFiles | None = None) -> None:
        """Takes the rows.

        Args:
            rows: features, label, `user_id`, and for `unseen_by` also `user_session`.
            train_rate: the share of purchases among the training rows, 0 to 1, for the baseline.
            files: finds the files of models.
        """
        self.rows, self.train_rate, self.files = rows, train_rate, files or ModelFiles()
        self.y, self.users = rows[LABEL].to_numpy(), rows["user_id"].to_numpy()
        self.answers = cache(self._answers)

    @classmethod
    def read(cls, file: Path, train_rate: float, files: ModelFiles) -> "HeldOutRows":
        """The rows of a Parquet file."""
        return cls(pd.read_parquet(file), train_rate, files)

    @property
    def count(self) -> int:
        """How many rows there are."""
        return len(self.rows)

    def unseen_by(self, uri: str) -> "HeldOutRows":
        """The rows of sessions that the model at `uri` was not trained on.

        A session is left out as a whole if the model was trained on any of its rows, because the rows of
        a session are alike.

        Raises:
            click.ClickException: the model's training rows are unknown or cannot be fetched.
        """
        file = self.files.training_rows(uri)
        if file is None:
            return self
        unseen = ~_sessions(self.rows).isin(_sessions(pd.read_parquet(file, columns=list(_SESSION))))
        return self if unseen.all() else HeldOutRows(self.rows[unseen], self.train_rate, self.files)

    @property
    def users_of_the_rarer_class(self) -> float:
        """The effective number (`effective_users`) of buyers or of non-buyers, whichever is lower."""
        return min(map(effective_users, self._users_of_classes))

    @property
    def widening(self) -> float:
        """The factor, 1 or more, by which the 95 % intervals must be widened because a class has few users."""
        return max(map(widening, self._users_of_classes))

    @cached_property
    def _users_of_classes(self) -> list[list[Hashable]]:
        return [self.users[self.y == label].tolist() for label in (0, 1)]

    def scores(self, uri: str) -> dict[str, Score]:
        """Every metric of the model at `uri`.

        Raises:
            click.ClickException: the model cannot be loaded, or cannot score these rows.
        """
        answers: Answers = self.answers(uri)
        return evaluate(self.y, answers.probability, self.users, answers.threshold, self.train_rate)

    def compare(self, challenger: str, champion: str) -> dict[str, Compared]:
        """Every metric of two models, both named by URI, and how much better the challenger is.

        Raises:
            click.ClickException: one of the models cannot be loaded, or cannot score these rows.
        """
        return compare(self.y, self.users, self.answers(challenger), self.answers(champion))

    def _answers(self, uri: str) -> Answers:
        return scoring.answers(packaging.load(uri, self.files.checksums(uri)), self.rows)


def _sessions(rows: pd.DataFrame) -> pd.MultiIndex:
    """The session of each row. Session ids are stored as text or as UUIDs, and pandas reads UUIDs as bytes."""

    def plain(value: object) -> str:
        return value.hex() if isinstance(value, bytes) else str(value).replace("-", "")

    return pd.MultiIndex.from_arrays([rows["user_id"], rows["user_session"].map(plain)])
