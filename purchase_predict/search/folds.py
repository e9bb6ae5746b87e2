"""Cross-validation folds of the training rows.

The folds go forward in time if the rows have times and can be cut by time; otherwise they are grouped by user. Folds
grouped by user validate a model on days that it was trained on. So a column that identifies the day looks more useful
than it is on later days. For columns that do not change over time, both kinds of folds rank models alike.
"""

from collections.abc import Sequence

import click
import numpy as np

from purchase_predict.errors import print_line
from purchase_predict.search.trial import LabelledRows

#: For each fold the positions of its training rows and of its validation rows.
Folds = Sequence[tuple[np.ndarray, np.ndarray]]

#: The number of folds grouped by user, for a table with fewer than MANY_ROWS rows.
FOLDS = 4
#: The number of folds grouped by user, from MANY_ROWS rows on. Measured with searches of 30 s on 50,000 rows of the
#: real primary table: with 2 folds, a search made 42 trials and had a median test ROC AUC of 0.8593; with 4 folds, 26
#: trials and 0.8585.
FOLDS_FOR_MANY_ROWS = 2
#: From this many rows on, half of the rows are enough to train a fold. On 25,000 rows, searches with fewer than 4 folds
#: had noisier scores, so they chose worse models: ROC AUC on the test rows was lower by as much as 0.006.
MANY_ROWS = 40_000


def has_many_rows(count: int) -> bool:
    """Whether a table has at least MANY_ROWS rows.

    Such a table has fewer folds grouped by user, and its best trials are not scored again.
    """
    return count >= MANY_ROWS


#: FORWARD_FOLDS is the number of forward folds. _HISTORY is the share of the rows before the earliest validation block.
#: With less history, the out-of-fold score underrates the final model. In searches of the real events with 3 seeds, the
#: out-of-fold score was 0.683 to 0.685 with a history of 0.4, and 0.711 to 0.713 with 0.6. The score on the test rows
#: was 0.709 to 0.714.
FORWARD_FOLDS, _HISTORY = 3, 0.6
#: `confirmation_folds` moves the earliest cut back (split 1) or forward (split 2) by this share of the rows.
_SHIFT = 0.05
#: The text that `kind_of_folds` returns for the planned folds. The planned folds need rows that have times and can be
#: cut by time into FORWARD_FOLDS + 1 parts, each with both classes.
_PLANNED = f"{FORWARD_FOLDS} folds that follow time"


def search_folds(rows: LabelledRows, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """The folds of a search, as `forward_folds` or `grouped_folds` returns them.

    If the rows have times but the planned folds are not possible, a printed line says which folds are used and why.
    """
    folds = forward_folds(rows, 0) or grouped_folds(rows, fold_count(len(rows.y)), seed)
    kind = kind_of_folds(rows, folds)
    if rows.ended is not None and kind != _PLANNED:
        print_line(f"train: the search uses {kind}")
    return folds


def confirmation_folds(rows: LabelledRows, seed: int, split: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Folds that differ from those of the search, for scoring the best trials again; `split` is 1, 2, ..."""
    return forward_folds(rows, split) or grouped_folds(rows, FOLDS, [seed, split])


def forward_folds(rows: LabelledRows, split: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Splits the rows by rolling origin: a fold trains on all rows before a cut and validates on the block after it.

    The blocks follow each other and end with the last row. No session is on both sides of a cut, but a returning user
    may be, as in production. The latest fold comes first, because it resembles the future most and pruning compares
    trials on the first folds.

    Args:
        rows: the rows to split.
        split: 0 for the folds of the search; other numbers move the cuts.

    Returns:
        For each fold the positions of its training rows and of its validation rows: 3 folds, or 2 if 3 are not
        possible. Empty if the rows have no times, or if 2 folds are not possible either.
    """
    if rows.ended is None:
        return []
    history = _HISTORY + _SHIFT * ((split + 1) // 2) * (-1) ** split
    for count in range(FORWARD_FOLDS, 1, -1):
        cuts = _cuts(rows.ended, rows.y, history + (1 - history) * np.arange(count) / count)
        if cuts:
            ends = [*cuts[1:], np.iinfo(np.int64).max]
            return [
                (np.flatnonzero(rows.ended < cut), np.flatnonzero((rows.ended >= cut) & (rows.ended < end)))
                for cut, end in zip(cuts, ends, strict=True)
            ][::-1]
    return []


def _cuts(ended: np.ndarray, y: np.ndarray, shares: np.ndarray) -> list[int]:
    """The times at which the rows are cut, in nanoseconds since 1970 (UTC).

    Each part between cuts has both classes. Within this limit, each cut is as near to its planned place as possible.

    Args:
        ended: when the session of each row ended, in nanoseconds since 1970 (UTC).
        y: labels, 0 or 1.
        shares: the planned share of the rows before each cut, 0 to 1.

    Returns:
        The cuts in the order of time. Empty if no cuts leave both classes in each part.
    """
    moments, number = np.unique(ended, return_inverse=True)
    # For each class, the number of rows before each distinct time; the last number counts all rows of the class.
    before = [np.append(0, np.cumsum(np.bincount(number, y == label))) for label in (0, 1)]
    planned = np.searchsorted(moments, np.sort(ended)[(shares * len(y)).astype(int)])
    # For each cut, the latest place at which the part after the cut still has both classes. Computed from the end.
    latest = [len(moments)]
    for _ in range(len(shares) + 1):
        if latest[0] < 0:
            return []
        latest.insert(0, min(int(np.searchsorted(rows, rows[latest[0]])) for rows in before) - 1)
    if latest[0] < 0:
        return []
    places = [0]
    for plan, last in zip(planned, latest[1:-1], strict=True):
        earliest = max(int(np.searchsorted(rows, rows[places[-1]], "right")) for rows in before)
        places.append(min(max(int(plan), earliest), last))
    return [int(moments[place]) for place in places[1:]]


def follows_time(rows: LabelledRows, folds: Folds) -> bool:
    """Whether each fold's validation rows are all later than its training rows."""
    ended = rows.ended
    return ended is not None and all(ended[train].max() < ended[judged].min() for train, judged in folds)


def kind_of_folds(rows: LabelledRows, folds: Folds) -> str:
    """Describes the folds of a search. If the rows have times but not the planned folds, also says why."""
    forward = follows_time(rows, folds)
    kind = f"{len(folds)} folds that {'follow time' if forward else 'are grouped by user'}"
    if rows.ended is None or kind == _PLANNED:
        return kind
    parts = FORWARD_FOLDS + 1 if forward else FORWARD_FOLDS
    return (
        f"{kind}, instead of {_PLANNED}. The training rows cannot be split by time into {parts} parts that each have "
        "bought and not-bought carts; events of more days may help"
    )


def fold_count(row_count: int) -> int:
    """The number of folds grouped by user, for a table with this many rows."""
    return FOLDS_FOR_MANY_ROWS if has_many_rows(row_count) else FOLDS


def grouped_folds(rows: LabelledRows, count: int, seed: int | Sequence[int]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Splits the rows into folds. All rows of a user are in one fold.

    Users are sorted by their number of purchases, then by their number of rows, and at random if both are equal. The
    sorted users are assigned to the folds in turn. So the folds have similar numbers of users, rows and purchases.
    scikit-learn's StratifiedGroupKFold is not used, because it handles one user at a time: on 50,000 rows it took 3 s
    of processor time, as much as 4 fits.

    Args:
        rows: the rows to split.
        count: the number of folds.
        seed: the seed of the random order among equal users.

    Returns:
        For each fold the positions of its training rows and of its validation rows. A fold whose training rows
        are all of one class is left out.

    Raises:
        click.ClickException: there are fewer users than folds.
    """
    users, user_of_row = np.unique(rows.user, return_inverse=True)
    if len(users) < count:
        raise click.ClickException(f"users in the training rows: {len(users)}; the search needs at least {count} users")
    tie_breaker = np.random.default_rng(seed).random(len(users))
    order = np.lexsort((tie_breaker, np.bincount(user_of_row), np.bincount(user_of_row, rows.y)))
    fold_of_user = np.empty(len(users), int)
    fold_of_user[order] = np.arange(len(users)) % count
    fold_of_row = fold_of_user[user_of_row]
    folds = [(np.flatnonzero(fold_of_row != number), np.flatnonzero(fold_of_row == number)) for number in range(count)]
    return [(train, validation) for train, validation in folds if 0 < rows.y[train].sum() < len(train)]
