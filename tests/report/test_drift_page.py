from dataclasses import replace
from datetime import date
from pathlib import Path

import pytest

from purchase_predict.report import drift_page
from tests.report.pages import FACTS, SCRIPT, prediction


def test_the_page_and_the_terminal_say_what_to_expect() -> None:
    text = drift_page.render(prediction(), FACTS)
    assert "<strong>about 1,988</strong> purchases expected among 5,000 carts" in text
    assert "<strong>2,532</strong> carts above the threshold 0.341" in text
    line = prediction().sentence("models:/purchase_predict/2", Path("/data/out.csv"))
    assert line == (
        "20000 rows of the events table, 12 refused; 5000 carts scored by models:/purchase_predict/2: "
        "about 1,988 purchases expected; 2,532 carts above the threshold 0.341; written to /data/out.csv"
    )
    assert prediction().metrics["expected_purchases"] == pytest.approx(1988.4)


def test_what_has_moved_comes_first_with_its_shares_and_a_verdict() -> None:
    text = drift_page.render(prediction(), FACTS)
    assert "1 of 3</strong> columns have moved far" in text
    table = text[text.index("what moved most") :]
    assert [table.index(f">{name}<") for name in ("brand", "price", "weekday")] == sorted(
        table.index(f">{name}<") for name in ("brand", "price", "weekday")
    )
    assert "30.0 % in training, 70.0 % now" in table
    assert "above 900: 24.0 % in training, 39.0 % now" in table
    for verdict in ("moved far", "moved slightly", "not moved"):
        assert table.count(f"<small>{verdict}</small>") == 1
    assert "by chance" not in text.lower()
    few = drift_page.render(prediction(rows=40), FACTS)
    assert "if 40 carts are drawn at random" in few
    assert few.count("<small>by chance ") == 2  # a column with one value has no chance to move


def test_columns_about_products_that_lack_a_history_are_not_blamed_on_the_data() -> None:
    shown = prediction()
    assert shown.past
    known = {name.replace("brand", "product_conversion_rate"): bins for name, bins in shown.reference.items()}
    shares = {name.replace("brand", "product_conversion_rate"): bins for name, bins in shown.shares.items()}
    within = replace(shown.past, until=date(2019, 10, 31), until_carts=5000)
    text = drift_page.render(replace(shown, reference=known, shares=shares, past=within), FACTS)
    assert "product_conversion_rate moved because" in " ".join(text.split())
    assert "history=" in text
    assert "train on newer data" not in text
    both = replace(shown, reference=known | shown.reference, shares=shares | shown.shares, past=within)
    assert "whether your data still record the other columns" in drift_page.render(both, FACTS)
    assert "moved because" not in drift_page.render(shown, FACTS)


def test_the_legend_has_the_line_of_the_drawing() -> None:
    text = drift_page.render(prediction(), FACTS)
    assert '<span class="key second solid"></span>now' in text
    assert ".beside .line { stroke-dasharray: none;" in text
    # The two CSS rules have the same specificity, so the later one applies.
    assert text.index(".key.second {") < text.index(".key.solid { border-top-style: solid; }")


def test_carts_like_the_training_rows_are_said_to_be_so() -> None:
    text = drift_page.render(prediction(moved=False), FACTS)
    assert "judged column by column" in text
    assert "train on newer data" not in text


def test_names_and_remarks_are_there_and_cannot_become_markup() -> None:
    text = drift_page.render(prediction(), FACTS)
    assert SCRIPT not in text
    assert text.count("&lt;script&gt;") >= 3  # the sentence, the drawing, the input
    assert "no history: visitors" in text
    assert "the input lacks 1 of the model&#39;s columns" in text
    assert "history</dt>" not in text  # none was given


def test_without_a_profile_of_the_training_rows_there_is_no_page(tmp_path: Path) -> None:
    drift_page.write(replace(prediction(), reference={}, shares={}), FACTS, tmp_path)
    assert list(tmp_path.iterdir()) == []
    drift_page.write(prediction(), FACTS, tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["drift.html"]
