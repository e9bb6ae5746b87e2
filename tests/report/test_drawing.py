from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from purchase_predict.report.drawing import Scale, axes, round_step, svg


@given(
    st.lists(st.floats(0, 1), min_size=1, max_size=30),
    st.sampled_from([1, 1e-3, 1e-7]),
    st.sampled_from([0, 1e-3, 0.7, 1]),
)
def test_an_axis_holds_its_values_within_what_a_metric_can_be_and_names_them_rightly(
    values: list[float], factor: float, near: float
) -> None:
    values = [abs(near - value * factor) for value in values]
    scale = Scale.around(np.array(values), 0.0, 1.0)
    assert 0 <= scale.low < scale.high <= 1
    assert all(-1e-9 <= scale.at(value) <= 1 + 1e-9 for value in values)
    texts = [text for _, text in scale.ticks]
    assert len(set(texts)) == len(texts)
    for share, text in scale.ticks:
        assert -1e-6 <= share <= 1 + 1e-6
        assert float(text) == pytest.approx(scale.low + share * (scale.high - scale.low), rel=1e-2, abs=1e-12)
        assert len(text) <= 8


@given(st.lists(st.integers(1, 500), min_size=1, max_size=30))
def test_the_axis_of_trials_has_whole_numbers(numbers: list[int]) -> None:
    scale = Scale.around(np.array(numbers), whole=True)
    assert [text for _, text in scale.ticks if "." in text] == []
    assert scale.ticks


@given(st.floats(1e-9, 1e9))
def test_a_step_is_round_and_hardly_larger(step: float) -> None:
    found = round_step(step)
    assert step * (1 - 1e-9) <= found <= 2.5 * step
    assert float(f"{found:.1e}"[:3]) in (1, 2, 2.5, 5)


def test_every_text_in_a_drawing_is_escaped() -> None:
    drawn = axes("<x>", "a & b", [(0.5, "<tick>")], [(0.5, "c & d")])
    texts = [one.text for one in ElementTree.fromstring(svg(drawn, '"<all>"')).iter("text")]
    assert texts == ["c & d", "<tick>", "<x>", "a & b"]
