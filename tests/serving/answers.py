"""Answers of a server, as the log of answers holds them."""

from purchase_predict.serving.answer_log import Answer
from purchase_predict.serving.columns import COLUMNS

#: Microseconds in a day.
DAY = 86_400_000_000
ROW = [
    1 if name == "product_id" else "acme" if name == "brand" else None if "category" in name else 2.5
    for name in COLUMNS
]


def answer(day: int = 20_000, user: int = 1, probability: float | None = 0.25) -> Answer:
    return Answer(day * DAY + 5, user, "s", 7, day * DAY, False, ROW, probability, 0, "3")
