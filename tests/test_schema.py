import duckdb
import ibis
import pyarrow as pa
import pytest

from purchase_predict.schema import TABLES, TYPES


@pytest.mark.parametrize("name", TYPES)
def test_a_type_is_the_same_in_duckdb_arrow_and_ibis(name: str) -> None:
    arrow = pa.type_for_alias(TYPES[name].arrow)
    assert duckdb.sql(f"SELECT NULL::{name} AS x").to_arrow_table().schema.field("x").type == arrow
    assert pa.table({"x": pa.nulls(1, arrow)}).schema == ibis.schema({"x": TYPES[name].ibis}).to_pyarrow()


def test_every_column_has_a_known_type() -> None:
    assert {column.type for columns in TABLES.values() for column in columns} <= set(TYPES)
