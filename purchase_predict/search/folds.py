"""Folds of the training rows: forward in time where the rows have one, else grouped by user.

Random folds validate a model on days that it was trained on, so they overrate a column that identifies the day. For
columns that do not change over time, both kinds of folds rank models alike.
"""

from collections.abc import Sequence

import click
import numpy as np

from purchase_predict.search.trial import LabelledRows

#: Cross-validation folds of a table with fewer than MANY_ROWS rows.
FOLDS = 4
#: Folds from MANY_ROWS rows on. Six searches of 30 s on 50,000 rows of the real primary table made 42 trials with
#: 2 folds (median test ROC AUC 0.8593) and 26 with 4 (0.8585).
FOLDS_FOR_MANY_ROWS = 2
#: From this many rows on, half of the rows are enough to train a fold. On 25,000 rows, searches with fewer than 4 folds
#: ended up to 0.006 lower, because their scores were too noisy.
MANY_ROWS = 40_000


def has_many_rows(count: int) -> bool:
    """Whether a table has so many rows that fewer folds are used and the best trials are not scored again."""
    return count >= MANY_ROWS


#: The number of forward folds, and the share of the rows before the first fold's validation rows. With less history,
#: the out-of-fold score underrates the final model: searches of the real events with 3 seeds scored 0.683 to 0.685 with
#: a history of 0.4, and 0.711 to 0.713 with 0.6. On the test rows they scored 0.709 to 0.714.
FORWARD_FOLDS, _HISTORY = 3, 0.6
#: The cuts of each further split into forward folds are moved by this share of the rows.
_SHIFT = 0.05


def search_folds(rows: LabelledRows, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """The folds of a search, as `forward_folds` or `grouped_folds` returns them."""
    return forward_folds(rows, 0) or grouped_folds(rows, fold_count(len(rows.y)), seed)


def confirmation_folds(rows: LabelledRows, seed: int, split: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Folds that differ from those of the search, for scoring the leaders again; `split` is 1, 2, ..."""
    return forward_folds(rows, split) or grouped_folds(rows, FOLDS, [seed, split])


def forward_folds(rows: LabelledRows, split: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Splits the rows by rolling origin: a fold trains on all rows before a moment and validates on the block after it.

    The blocks follow each other and end with the last row. No session is on both sides, but a returning user may be, as
    in production. The latest fold comes first: it resembles the future most, and pruning looks at the first folds.

    Args:
        rows: the rows to split.
        split: 0 for the folds of the search; other numbers move the cuts.

    Returns:
        For each fold the positions of the rows to train on, and of those to validate on. Empty if the rows have no
        time, or too few different times for two folds with both classes.
    """
    if rows.ended is None:
        return []
    history = _HISTORY + _SHIFT * ((split + 1) // 2) * (-1) ** split
    shares = history + (1 - history) * np.arange(FORWARD_FOLDS) / FORWARD_FOLDS
    cuts = np.sort(rows.ended)[(shares * len(rows.y)).astype(int)]
    ends = np.append(cuts[1:], np.iinfo(np.int64).max)
    folds = [
        (np.flatnonzero(rows.ended < cut), np.flatnonzero((rows.ended >= cut) & (rows.ended < end)))
        for cut, end in zip(cuts, ends, strict=True)
    ]
    usable = [fold for fold in folds if all(0 < rows.y[side].sum() < len(side) for side in fold)]
    return usable[::-1] if len(usable) > 1 else []


def fold_count(row_count: int) -> int:
    """The number of folds for a table with this many rows."""
    return FOLDS_FOR_MANY_ROWS if has_many_rows(row_count) else FOLDS


def grouped_folds(rows: LabelledRows, count: int, seed: int | Sequence[int]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Splits the rows into folds, each user in one of them.

    Users are sorted by purchases and rows, in random order among equals, and dealt to the folds in turn. So all folds
    have similar numbers of users, rows and purchases. (scikit-learn's StratifiedGroupKFold visits every user by itself:
    on 50,000 rows it took 3 s of processor time, as much as four fits.)

    Args:
        rows: the rows to split.
        count: the number of folds.
        seed: of the order among equal users.

    Returns:
        For each fold the positions of the rows to train on, and of those to validate on. A fold whose training rows
        are all of one class is left out.

    Raises:
        click.ClickException: there are fewer users than folds.
    """
    users, user_of_row = np.unique(rows.user, return_inverse=True)
    if len(users) < count:
        raise click.ClickException(f"{len(users)} user(s) in the training rows: the search needs at least {count}")
    tie_breaker = np.random.default_rng(seed).random(len(users))
    order = np.lexsort((tie_breaker, np.bincount(user_of_row), np.bincount(user_of_row, rows.y)))
    fold_of_user = np.empty(len(users), int)
    fold_of_user[order] = np.arange(len(users)) % count
    fold_of_row = fold_of_user[user_of_row]
    folds = [(np.flatnonzero(fold_of_row != number), np.flatnonzero(fold_of_row == number)) for number in range(count)]
    return [(train, validation) for train, validation in folds if 0 < rows.y[train].sum() < len(train)]
