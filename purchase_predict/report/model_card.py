"""The model card: the description of a registered model's version, with its metrics, data, limits and runs."""

from collections.abc import Mapping

from purchase_predict.features.description import Description
from purchase_predict.metrics import Score

#: The question that the model answers. It is the first line of the card.
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
        verdict: the gate's decision and its reason.
        dataset: the content of `dataset.json`.
        runs: the links of the card, by name: to the report, the dataset, the model, and the runs of the steps.
    """
    rows, rates = dataset.rows, dataset.base_rate
    table = "\n".join(
        f"| {name} | {score.value:.4f} | {score.low:.4f} to {score.high:.4f} | {score.baseline:.4f} |"
        for name, score in scores.items()
    )
    cut = f" at {dataset.cut} UTC" if dataset.cut else ""
    known_categories = ", ".join(f"{name} {len(values)}" for name, values in dataset.categories.items())
    return (
        f"{QUESTION}\n\n"
        f"**Metrics** on {rows.test} test rows, with bootstrap intervals over users:\n\n"
        f"| metric | model | 95 % interval | baseline |\n|---|---|---|---|\n{table}\n\n"
        f"**Data**: trained on {rows.train} rows ({rates.train:.1%} purchases); tested on {rows.test} other rows "
        f"({rates.test:.1%} purchases); split by {dataset.split}{cut}. "
        f"Features: {', '.join(dataset.features)}.\n\n"
        f"**Limits**: use the model only at the moment at which a product is put in the cart, and only for shops and "
        f"times like those in its training data. Number of known values in each text column: "
        f"{known_categories or 'none'}; any other value counts as unknown. "
        f"The probabilities are not corrected if the base rate changes after the training.\n\n"
        f"**Gate**: {verdict}\n\n"
        f"**Links**: {', '.join(f'{step} {run}' for step, run in runs.items())}\n"
    )
