"""The simplest model that can score."""

from collections.abc import Callable

import pandas as pd


class Constant:
    """A model that gives every row the probability 0.25.

    It raises RuntimeError once it has seen `fails_at` rows. `answered` is called at each call, with the number of rows.
    """

    columns = ("price", "brand")
    counters = None

    def __init__(self, fails_at: int = 10**9, answered: Callable[[int], None] = lambda rows: None) -> None:
        self.fails_at, self.seen, self.answered = fails_at, 0, answered

    def answer(self, frame: pd.DataFrame, as_is: bool = False) -> pd.DataFrame:
        self.seen += len(frame)
        self.answered(len(frame))
        if self.seen >= self.fails_at:
            raise RuntimeError("the model failed")
        return pd.DataFrame({"probability": 0.25, "will_buy": 0}, index=frame.index)
