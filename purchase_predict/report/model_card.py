"""The model card: the description of a registered model's version, with its metrics, data, limits and runs."""

from collections.abc import Mapping

from purchase_predict.features.description import Description
from purchase_predict.metrics import Score

QUESTION = "Will this visitor, who has just put this product in the cart, buy it in this session?"


def card(
    scores: Mapping[str, Score],
    verdict: str,
    dataset: Description,
    runs: Mapping[str, str],
) -> str:
    """The model card as Markdown.

    Args:
        scores: the metrics on the test set.
        verdict: the gate's decision with the reason.
        dataset: the content of `dataset.json`.
        runs: by step, the id of the run that made the model, or a link to it.
    """
    rows, rates = dataset.rows, dataset.base_rate
    table = "\n".join(
        f"| {name} | {score.value:.4f} | {score.low:.4f} to {score.high:.4f} | {score.baseline:.4f} |"
        for name, score in scores.items()
    )
    cut = f" at {dataset.cut} UTC" if dataset.cut else ""
    known_categories = ", ".join(f"{len(values)} of {name}" for name, values in dataset.categories.items())
    return (
        f"{QUESTION}\n\n"
        f"**Metrics** on {rows.test} test rows, with bootstrap intervals over users:\n\n"
        f"| metric | model | 95 % interval | baseline |\n|---|---|---|---|\n{table}\n\n"
        f"**Data**: trained on {rows.train} rows, {rates.train:.1%} of them purchases; tested on {rows.test} "
        f"other rows, {rates.test:.1%} of them purchases; split by {dataset.split}{cut}. "
        f"Features: {', '.join(dataset.features)}.\n\n"
        f"**Limits**: the model is made for the moment at which a product is put in the cart, and for shops and times "
        f"like those in its training data. Known values of text columns: {known_categories or 'none'}; any other value "
        f"counts as unknown. "
        f"If the base rate has changed since the training, the probability is not corrected for that.\n\n"
        f"**Gate**: {verdict}\n\n"
        f"**Runs**: {', '.join(f'{step} {run}' for step, run in runs.items())}\n"
    )
