"""The page a marketing lead reads: one HTML file with its styles and drawings inside, no script, no outside request."""

from collections.abc import Sequence
from html import escape

import numpy as np

from purchase_predict.evaluation.weaknesses import Slice, Tradeoff
from purchase_predict.metrics import LOSSES
from purchase_predict.report.contents import Contents, Step
from purchase_predict.report.drawing import WIDTH, chart, figure, interval, scatter, thin
from purchase_predict.search.trial import best_so_far, spans_decades, tried_parameters

#: Shares of codes that the table of the trade-off tells.
_TOLD = (0.1, 0.2, 0.3, 0.5, 0.7)
_MOST_FEATURES = 10
_MOST_POINTS = 120


def render(contents: Contents) -> str:
    """The page, as one self-contained HTML document."""
    body = "".join(
        [
            _answer(contents),
            _tradeoff(contents.tradeoff),
            _metrics(contents),
            _curves(contents),
            _slices(contents.slices),
            _looks_at(contents),
            _search(contents),
            _lineage(contents),
        ]
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark"><link rel="icon" href="data:,">'
        f"<title>Will they buy it?</title><style>{_STYLE}</style></head><body><main>{body}</main></body></html>\n"
    )


# ---- parts of the page -------------------------------------------------------------------------------------------


def _percent(value: float) -> str:
    return f"{100 * value:.1f}&nbsp;%"


def _answer(contents: Contents) -> str:
    area = contents.scores["roc_auc"]
    rows, users = len(contents.y), contents.description.users.test
    if area.low > 0.5:
        sentence = (
            f"<strong>Yes, better than chance.</strong> Of a buyer and a visitor who leaves the cart, the model gives the "
            f"buyer the higher probability in {_percent(area.value)} of all pairs"
        )
    else:
        sentence = (
            "<strong>Not surely.</strong> The model does not tell buyers from others surely better than a coin: it ranks "
            f"the buyer higher in {_percent(area.value)} of all pairs"
        )
    warnings = "".join(
        f'<p class="warning"><strong>Suspicious: {escape(name)}.</strong> By itself this feature all but tells the label '
        f"(ROC AUC {value:.4f} on the training rows). It is probably a copy of it, or known only after the purchase; the "
        "numbers below cannot be trusted until that is settled.</p>"
        for name, value in contents.suspicious.items()
    )
    return (
        '<header><p class="kicker">purchase-predict</p><h1>This visitor has just put a product in the cart: will they buy '
        f"it in this session?</h1></header>{warnings}"
        f'<section class="answer"><p>{sentence} (95&nbsp;% interval {_percent(area.low)} to {_percent(area.high)}; a coin: '
        f"50&nbsp;%).</p><p>Measured on {rows:,} carts that the training did not hold, of {users:,} users; "
        f"{_percent(float(contents.y.mean()))} of the carts were bought.</p></section>"
    )


def _tradeoff(points: Sequence[Tradeoff]) -> str:
    told = [point for share in _TOLD for point in points if abs(point.codes - share) < 1e-9]
    half = next(point for point in points if abs(point.codes - 0.5) < 1e-9)
    rows = "".join(
        f"<tr><td>{100 * p.codes:.0f}&nbsp;%</td><td>{_percent(p.buyers_kept)}<small>{_percent(p.low)} to "
        f"{_percent(p.high)}</small></td><td>{100 * (1 - p.codes):.0f}&nbsp;%</td><td>{_percent(p.others_reached)}</td></tr>"
        for p in told
    )
    drawn = chart(
        [("model", [p.codes for p in points], [p.buyers_kept for p in points])],
        "share of carts that get a code",
        "buyers who keep the full price",
        reference=[(0, 1), (1, 0)],
        band=([p.codes for p in points], [p.low for p in points], [p.high for p in points]),
    )
    return (
        "<section><h2>Promo codes: whom to give one</h2><p>Codes go to the carts that are least likely to be bought. With "
        f"codes for half of the carts, {_percent(half.buyers_kept)} of the buyers are kept at the full price (drawn at random: "
        f"50&nbsp;%), and {_percent(half.others_reached)} of those who would have left are reached. Whether a code changes "
        "their mind, these data cannot tell: that takes a trial.</p>"
        f'<div class="pair">{figure(drawn, "Buyers kept at the full price; dashed: codes drawn at random")}'
        '<div class="scroll"><table><thead><tr><th>codes</th><th>buyers kept</th><th>at random</th><th>others reached</th>'
        f"</tr></thead><tbody>{rows}</tbody></table></div></div></section>"
    )


_NAMES = {
    "roc_auc": "ROC AUC",
    "average_precision": "average precision",
    "log_loss": "log loss",
    "f1": "F1 at the threshold",
    "precision": "precision at the threshold",
    "recall": "recall at the threshold",
    "f1_at_half": "F1 at 0.5",
    "precision_at_half": "precision at 0.5",
    "recall_at_half": "recall at 0.5",
    "brier": "Brier score",
    "calibration_error": "calibration error",
}


def _metrics(contents: Contents) -> str:
    rows = "".join(
        f"<tr><td>{_NAMES.get(name, escape(name))}{' (searched)' if name == contents.metric else ''}"
        f"<small>{'less' if name in LOSSES else 'more'} is better</small></td><td>{s.value:.4f}</td>"
        f"<td>{s.low:.4f} to {s.high:.4f}</td><td>{s.baseline:.4f}</td></tr>"
        for name, s in contents.scores.items()
    )
    return (
        "<section><h2>The numbers</h2><p>Beside each what a constant answer scores. Intervals: 95&nbsp;%, bootstrap over users. "
        f"The threshold, {contents.threshold:.4f}, was chosen on out-of-fold predictions.</p><p>{_calibration(contents)}</p>"
        '<div class="scroll"><table><thead><tr><th>metric on the test rows</th><th>model</th><th>interval</th>'
        f"<th>constant</th></tr></thead><tbody>{rows}</tbody></table></div></section>"
    )


def _calibration(contents: Contents) -> str:
    gain = contents.calibration.gain
    measured = f"log loss out of fold better by {gain.value:.5f}, 95&nbsp;% interval {gain.low:.5f} to {gain.high:.5f}"
    if contents.calibration.correction is None:
        return f"The probabilities are the booster's own: a correction would not surely help ({measured})."
    after = contents.scores["calibration_error"].value
    return (
        f"The probabilities are corrected, which helps out of fold ({measured}); the calibration error on the test rows "
        f"goes from {contents.calibration_error_before:.4f} to {after:.4f}."
    )


def _curves(contents: Contents) -> str:
    from sklearn.calibration import calibration_curve
    from sklearn.metrics import precision_recall_curve, roc_curve

    y, probability = contents.y, np.clip(contents.probability, 0, 1)
    false, true, _ = roc_curve(y, probability)
    precision, recall, _ = precision_recall_curve(y, probability)
    share, said = calibration_curve(y, probability, n_bins=10, strategy="quantile")
    base = float(y.mean())
    charts = [
        (
            chart([("model", *thin(false, true))], "false positive rate", "true positive rate", [(0, 0), (1, 1)]),
            "ROC",
        ),
        (
            chart([("model", *thin(recall, precision))], "recall", "precision", [(0, base), (1, base)]),
            "Precision and recall",
        ),
        (
            chart([("model", said, share)], "predicted probability", "share that bought", [(0, 0), (1, 1)], dots=True),
            "Calibration, by tenths of the rows",
        ),
    ]
    figures = "".join(
        figure(drawn, f"{name}; dashed: {dashed}")
        for (drawn, name), dashed in zip(charts, ("any constant", "any constant", "perfect"), strict=True)
    )
    return f'<section><h2>Curves</h2><div class="grid">{figures}</div></section>'


def _slices(parts: Sequence[Slice]) -> str:
    rows, before = [], ""
    for part in parts:
        if part.by != before:
            rows.append(f'<tr class="group"><th colspan="4">by {escape(part.by)}</th></tr>')
            before = part.by
        area = part.roc_auc
        told = "one class only" if area is None else f"{area.value:.3f}<small>{area.low:.3f} to {area.high:.3f}</small>"
        rows.append(
            f'<tr><td class="name">{escape(part.name)}</td><td>{part.rows:,}</td><td>{_percent(part.base_rate)}</td>'
            f"<td>{told}{interval(area)}</td></tr>"
        )
    return (
        "<section><h2>Where it is weak</h2><p>ROC AUC within each part of the test rows; 0.5, the dashed line, is a coin.</p>"
        '<div class="scroll"><table><thead><tr><th>part</th><th>carts</th><th>bought</th><th>ROC AUC</th></tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div></section>"
    )


def _looks_at(contents: Contents) -> str:
    strength = contents.contributions.abs().mean().sort_values(ascending=False)
    names = list(strength.index[:_MOST_FEATURES])
    most = max(float(strength.max()), 1e-12)
    bars = "".join(
        f'<tr><td class="name">{escape(name)}</td><td>{strength[name]:.3f}</td>'
        f'<td class="wide"><svg class="bar" viewBox="0 0 100 8" preserveAspectRatio="none" aria-hidden="true">'
        f'<rect class="fill" width="{100 * strength[name] / most:.1f}" height="8"/></svg></td></tr>'
        for name in names
    )
    return (
        "<section><h2>What the model looks at</h2><p>Mean size of each feature's push on the answer, in log-odds (SHAP "
        "values). In the drawing each dot is a cart: to the right the feature speaks for a purchase; dark dots are high values "
        "of the feature, pale ones low, hollow ones categories or missing.</p>"
        f'<div class="pair"><div class="scroll"><table><thead><tr><th>feature</th><th>push</th><th></th></tr></thead><tbody>{bars}'
        f"</tbody></table></div>{figure(_swarm(contents, names), 'Push of each feature, cart by cart')}</div></section>"
    )


def _swarm(contents: Contents, names: Sequence[str]) -> str:
    moved = contents.contributions[list(names)].head(_MOST_POINTS)
    most = max(float(moved.abs().to_numpy().max()), 1e-12)
    left, step = 150, 26
    height = step * len(names) + 34
    shift = np.random.default_rng(0).uniform(-8, 8, len(moved))
    parts = [f'<line class="reference" x1="{(left + WIDTH) / 2}" x2="{(left + WIDTH) / 2}" y1="4" y2="{height - 28}"/>']
    for place, name in enumerate(names):
        middle = 16 + place * step
        short = name if len(name) <= 24 else name[:23] + "…"
        parts.append(f'<text x="{left - 8}" y="{middle + 4}" text-anchor="end">{escape(short)}</text>')
        for push, rank, off in zip(moved[name], contents.values[name], shift, strict=False):
            x = (left + WIDTH) / 2 + push / most * ((WIDTH - left) / 2 - 6)
            kind = "hollow" if np.isnan(rank) else f"rank{min(4, int(rank * 5))}"
            parts.append(f'<circle class="{kind}" cx="{x:.1f}" cy="{middle + off:.1f}" r="2.2"/>')
    parts.append(f'<text x="{left}" y="{height - 8}">against</text>')
    parts.append(f'<text x="{WIDTH - 6}" y="{height - 8}" text-anchor="end">for a purchase</text>')
    return f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="Push of each feature">{"".join(parts)}</svg>'


def _search(contents: Contents) -> str:
    trials = contents.trials
    finished = trials[trials["state"] == "finished"]
    scores = finished["score"].astype(float)
    states = ", ".join(f"{count} {escape(str(state))}" for state, count in trials["state"].value_counts().items())
    numbers = finished["number"].astype(float).to_numpy() + 1
    figures = figure(
        scatter(numbers, scores.to_numpy(), "trial", contents.metric, best_so_far(scores.to_numpy(), contents.metric)),
        "Finished trials, out of fold; line: the best so far",
    )
    for name in tried_parameters(trials):
        values = finished[name].astype(float).to_numpy()
        if spans_decades(name, values):
            values, label = np.log10(np.maximum(values, values[values > 0].min())), f"{name}, power of ten"
        else:
            label = name
        figures += figure(scatter(values, scores.to_numpy(), label, contents.metric), name)
    return (
        f"<section><h2>The search</h2><p>{len(trials)} trials ({states}), {trials['seconds'].sum():.0f} seconds; the first is "
        f'LightGBM\'s defaults.</p><div class="grid small">{figures}</div></section>'
    )


def _lineage(contents: Contents) -> str:
    data = contents.description
    steps = "".join(
        f"<li><strong>{escape(step.name)}</strong><span>{escape(step.what)}</span>{_run(step)}</li>"
        for step in contents.steps
    )
    rows = data.rows
    split = f"by time, from {escape(str(data.cut))} on" if data.split == "time" else "by user"
    facts = {
        "rows read": f"{rows.read:,}",
        "repeated rows dropped": f"{rows.repeated:,}",
        "training": f"{rows.train:,} carts of {data.users.train:,} users, {_percent(data.base_rate.train)} bought",
        "test": f"{rows.test:,} carts of {data.users.test:,} users, {_percent(data.base_rate.test)} bought",
        "split": split,
        "features": escape(", ".join(data.features)),
    }
    table = "".join(f"<tr><th>{name}</th><td class='name'>{value}</td></tr>" for name, value in facts.items())
    return (
        f'<section><h2>Data and lineage</h2><ol class="pipeline">{steps}</ol>'
        f'<div class="scroll"><table class="facts"><tbody>{table}</tbody></table></div></section>'
    )


def _run(step: Step) -> str:
    if not step.run_id:
        return ""
    shown = f"<code>{escape(step.run_id)}</code>"
    return f'<a href="{escape(step.link)}">{shown}</a>' if step.link.startswith(("http://", "https://")) else shown


# ---- drawings ----------------------------------------------------------------------------------------------------
_STYLE = """
:root{color-scheme:light dark;--back:#fff;--ink:#1c2330;--soft:#5b6575;--rule:#dde2ea;--card:#f4f6fa;--line:#1f5fbf;
--band:#1f5fbf2e;--warn:#fff1d6;--warn-ink:#6b4300;--r0:#b9cdf0;--r1:#8dabdf;--r2:#5f88cc;--r3:#3765b1;--r4:#143f86}
@media (prefers-color-scheme:dark){:root{--back:#12161d;--ink:#e8ecf2;--soft:#a3adbb;--rule:#303845;--card:#1b212b;
--line:#7fb0ff;--band:#7fb0ff33;--warn:#43330f;--warn-ink:#ffdf9e;--r0:#e2ecff;--r1:#b5d0ff;--r2:#86b1fb;--r3:#5a8ddf;
--r4:#3d6dba}}
*{box-sizing:border-box}body{margin:0;background:var(--back);color:var(--ink);font:16px/1.55 system-ui,sans-serif}
main{max-width:1060px;margin:0 auto;padding:24px 20px 64px}h1{font-size:clamp(1.5rem,4.5vw,2.2rem);line-height:1.2;
margin:.2em 0 .7em;text-wrap:balance}h2{font-size:1.25rem;margin:0 0 .4em}section{margin:36px 0}p{max-width:72ch;margin:.4em 0 1em}
.kicker{color:var(--soft);margin:0;letter-spacing:.04em}.answer{background:var(--card);border-left:4px solid var(--line);
padding:14px 20px;border-radius:4px;font-size:1.12rem}.answer p{margin:.4em 0}.warning{background:var(--warn);color:var(--warn-ink);
padding:12px 18px;border-radius:4px;max-width:none}.pair,.grid{display:grid;gap:24px;align-items:start;
grid-template-columns:repeat(auto-fit,minmax(min(100%,300px),1fr))}.grid.small{grid-template-columns:repeat(auto-fill,minmax(min(100%,230px),1fr))}
.pair>*,.grid>*{min-width:0}figure{margin:0}figcaption{color:var(--soft);font-size:.85rem}svg{display:block;width:100%;height:auto}
svg text{fill:var(--soft);font:12px system-ui,sans-serif}.line{fill:none;stroke:var(--line);stroke-width:2}.dot,.fill{fill:var(--line)}
.reference{fill:none;stroke:var(--soft);stroke-width:1.2;stroke-dasharray:4 4}line.grid{stroke:var(--rule)}.band{fill:var(--band)}
.hollow{fill:none;stroke:var(--soft)}.rank0{fill:var(--r0)}.rank1{fill:var(--r1)}.rank2{fill:var(--r2)}.rank3{fill:var(--r3)}
.rank4{fill:var(--r4)}.scroll{overflow-x:auto;max-width:100%}table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}
th,td{padding:6px 8px;text-align:right;border-bottom:1px solid var(--rule);vertical-align:top}th{font-weight:600;font-size:.88rem}
th:first-child,td:first-child,td.name{text-align:left;overflow-wrap:anywhere}.group th{padding-top:16px;color:var(--soft)}
.facts th{white-space:nowrap;width:1%}small{display:block;color:var(--soft);font-size:.78rem}.interval{width:160px;margin-left:auto}
.bar{height:12px}.wide{width:40%}.pipeline{list-style:none;display:flex;flex-wrap:wrap;gap:12px 30px;padding:0;margin:0 0 20px}
.pipeline li{position:relative;flex:1 1 180px;min-width:0;background:var(--card);border:1px solid var(--rule);border-radius:6px;
padding:10px 14px}.pipeline li+li::before{content:"→";position:absolute;left:-24px;top:50%;transform:translateY(-50%);color:var(--soft)}
.pipeline span,.pipeline code{display:block;font-size:.85rem;overflow-wrap:anywhere}a{color:var(--line)}
@media (max-width:520px){main{padding:16px 14px 40px}th,td{padding:6px 4px;font-size:.86rem}.facts th{white-space:normal;width:28%}
.pipeline{flex-direction:column;gap:26px}.pipeline li{flex:none}.pipeline li+li::before{content:"↓";left:50%;top:-14px}.interval{width:70px}}
@media print{:root{--back:#fff;--ink:#000;--soft:#444;--rule:#ccc;--card:#fff;--line:#1f5fbf;--band:#1f5fbf2e}
body{font-size:11pt}figure,tr,li,.answer{break-inside:avoid}h2{break-after:avoid}.scroll{overflow:visible}main{padding:0}}
"""
