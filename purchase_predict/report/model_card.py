"""The text that a version of the registered model carries: what it answers, how well, on what data, and its limits."""

from collections.abc import Mapping

from purchase_predict.features.description import Description

QUESTION = "Will this visitor, who has just put this product in the cart, buy it in this session?"


def card(
    metrics: Mapping[str, Mapping[str, float]],
    verdict: str,
    dataset: Description,
    runs: Mapping[str, str],
) -> str:
    """The model card, as Markdown.

    Args:
        metrics: of each metric on the test set `value`, `low` and `high` of its 95 % interval, and the constant
            answer's `baseline`.
        verdict: what the gate decided, and why.
        dataset: what `dataset.json` says.
        runs: the runs it comes from, by step, as links or ids.
    """
    rows, rates = dataset.rows, dataset.base_rate
    table = "\n".join(
        f"| {name} | {m['value']:.4f} | {m['low']:.4f} to {m['high']:.4f} | {m['baseline']:.4f} |"
        for name, m in metrics.items()
    )
    cut = f" at {dataset.cut} UTC" if dataset.cut else ""
    known = ", ".join(f"{len(values)} of {name}" for name, values in dataset.categories.items())
    return (
        f"{QUESTION}\n\n"
        f"**Metrics** on {rows.test} test rows, the interval by resampling users:\n\n"
        f"| metric | model | 95 % interval | constant answer |\n|---|---|---|---|\n{table}\n\n"
        f"**Data**: trained on {rows.train} rows, {rates.train:.1%} of them purchases, tested on {rows.test} "
        f"others, {rates.test:.1%} purchases; split by {dataset.split}{cut}. "
        f"Features: {', '.join(dataset.features)}.\n\n"
        f"**Limits**: it speaks of the moment a product enters the cart, and only of shops and times like those of "
        f"its data. Known categories: {known or 'none'}; any other counts as unknown. The probability is not corrected "
        f"for a base rate that has changed since.\n\n"
        f"**Gate**: {verdict}\n\n"
        f"**Runs**: {', '.join(f'{step} {run}' for step, run in runs.items())}\n"
    )
