"""If PySpark or a package for Spark Connect is missing, the error is one line. Spark does not take over Ctrl-C."""

import signal
import sys

import click
import pytest

from purchase_predict import spark_session
from purchase_predict.features import on_spark

pytest.importorskip("pyspark")


def test_without_pyspark_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyspark.sql", None)
    with pytest.raises(click.ClickException, match=r"needs PySpark.*pip install 'pyspark>=4.0,<4.1'") as refused:
        on_spark.primary_from_events("file:///nowhere", "UUID", {}, "file:///nowhere")
    assert "\n" not in refused.value.message


def test_without_its_client_one_line_says_what_spark_connect_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "grpc", None)
    monkeypatch.setenv("SPARK_REMOTE", "sc://127.0.0.1:1/;token=secret")
    with pytest.raises(click.ClickException, match=r"pip install 'pyspark\[connect\]>=4.0,<4.1'") as refused:
        on_spark.primary_from_events("file:///nowhere", "UUID", {}, "file:///nowhere")
    assert "secret" not in refused.value.message


def test_spark_does_not_take_ctrl_c_over() -> None:
    before = signal.getsignal(signal.SIGINT)
    with spark_session._interrupts_kept():
        signal.signal(signal.SIGINT, lambda number, frame: None)
    assert signal.getsignal(signal.SIGINT) is before
