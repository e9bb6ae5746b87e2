"""No password, token or control character reaches the terminal, a tag or a message."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from purchase_predict.errors import printable
from purchase_predict.secrets import shown_uri, without_secrets

schemes = st.sampled_from(
    ["http", "HTTP", "https", "Postgresql", "postgresql+psycopg2", "mysql+pymysql", "mssql", "s3", "gs", "ftp", "sftp",
     "hdfs", "wasbs", "abfss", "mlflow-artifacts", "databricks", "simplecache::s3", "filecache::HTTPS", "zip://a.csv::http"]
)  # fmt: skip
#: Characters of a password: an `@`, a `/` or a `:` among them make a URI that programs take apart differently.
secret = st.text(st.sampled_from("abcXYZ0189-._~!$'()*+,;=%:/@#[]"), min_size=1, max_size=12).map(
    lambda text: f"s3cr3t{text}s3cr3t"
)
#: With two colons and a slash, `a::b://` is a chained address.
opaque = secret.filter(lambda text: ":/" not in text)
users = st.text(st.sampled_from("abcXYZ09._-%"), max_size=8)
hosts = st.sampled_from(["example.org", "10.0.0.1", "[::1]", "host:5000", "db.internal:5432"])
paths = st.sampled_from(["", "/", "/mlflow", "/a/b.csv", "/data/part-0.parquet"])
parameters = st.sampled_from(
    ["password", "PASSWORD", "passwd", "pwd", "token", "access_token", "sig", "X-Amz-Signature", "client_secret",
     "api_key", "apikey", "api-key", "key", "AccountKey", "account_key", "private_key", "subscription-key",
     "sslpassword", "X-Amz-Credential", "authorization"]
)  # fmt: skip


@given(schemes, users, secret, hosts, paths)
def test_no_part_of_a_password_is_shown(scheme: str, user: str, password: str, host: str, path: str) -> None:
    shown = shown_uri(f"{scheme}://{user}:{password}@{host}{path}")
    assert "s3cr3t" not in shown
    assert shown.endswith(f"{host}{path}")
    assert shown.startswith(scheme.partition(":")[0])


@given(schemes, hosts, paths, parameters, secret.filter(lambda text: not set(text) & set("#;'/@:?")))
def test_no_secret_parameter_is_shown(scheme: str, host: str, path: str, name: str, password: str) -> None:
    """In a query, in a fragment, or behind a semicolon, as databases have it."""
    shown = shown_uri(f"{scheme}://{host}{path}?user=me&{name}={password}&sslmode=require")
    assert "s3cr3t" not in shown
    assert f"{name}=***" in shown
    assert "sslmode=require" in shown
    for separator in "#;":
        assert shown_uri(f"{scheme}://{host}{path}{separator}{name}={password}").endswith(
            f"{path}{separator}{name}=***"
        )


@given(schemes, hosts, users, secret.filter(lambda text: not set(text) & set("@/?#&")))
def test_no_password_of_an_address_in_a_query_is_shown(scheme: str, host: str, user: str, password: str) -> None:
    assert shown_uri(f"{scheme}://{host}/login?next=http://{user}:{password}@other/x") == (
        f"{scheme}://{host}/login?next=http://other/x"
    )


@given(st.sampled_from(["postgresql", "mysql+pymysql", "http", "S3"]), st.sampled_from(["", "/"]), users, opaque)
def test_no_password_of_a_connection_string_without_slashes_is_shown(
    scheme: str, slash: str, user: str, password: str
) -> None:
    uri = f"{scheme}:{slash}{user}:{password}@db.internal/x"
    assert shown_uri(uri) == f"{scheme}:{slash}db.internal/x"
    assert without_secrets(f"store {uri}: refused") == f"store {scheme}:{slash}db.internal/x: refused"


@pytest.mark.parametrize(
    "uri",
    [
        "http://127.0.0.1:5000", "sqlite:////home/me/mlflow.db", "gs://bucket/a@b.csv", "gs://bucket/what:ever@x",
        "models:/purchase_predict@production", "runs:/abc/model", "/data/a@b", "file:///data/x", "databricks", "",
        "mlflow-artifacts:/1/2", "s3://bucket/key?versionId=3", "s3://bucket/monkey=1/part.csv", "C:/data/a@b",
        "models:/m-0123", "/data/key=a/x.csv", "abfss://raw@account.dfs.core.windows.net/clicks", "https://host/path?page=2",
    ],
)  # fmt: skip
def test_what_holds_no_secret_is_shown_as_it_is(uri: str) -> None:
    assert shown_uri(uri) == uri
    assert without_secrets(f"{uri}: not found") == f"{uri}: not found"


@given(
    schemes, users, st.text(st.sampled_from("ab09-._~!$'\"<>()*+,;=%:/@#[]"), max_size=12).map("s3cr3t{}s3cr3t".format)
)
def test_a_uri_within_a_message_is_masked(scheme: str, user: str, password: str) -> None:
    message = printable(f"source {scheme}://{user}:{password}@example.org/x: must be sample, gs:// or a file")
    assert "s3cr3t" not in message
    assert message.endswith("example.org/x: must be sample, gs:// or a file")


@given(st.text())
def test_a_message_is_one_printable_line(text: str) -> None:
    shown = printable(text)
    assert shown.isprintable()
    assert "\n" not in shown
