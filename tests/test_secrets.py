"""No password, token or control character reaches the terminal, a tag or a message."""

from urllib.parse import quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from purchase_predict.errors import print_block, printable
from purchase_predict.secrets import shown_uri, without_secrets

schemes = st.sampled_from(
    ["http", "HTTP", "https", "Postgresql", "postgresql+psycopg2", "mysql+pymysql", "mssql", "s3", "gs", "ftp", "sftp",
     "hdfs", "wasbs", "abfss", "mlflow-artifacts", "databricks", "simplecache::s3", "filecache::HTTPS", "zip://a.csv::http"]
)  # fmt: skip
#: Passwords. If one contains `@`, `/` or `:`, programs do not agree on where it ends in a URI.
secret = st.text(st.sampled_from("abcXYZ0189-._~!$'()*+,;=%:/@#[]"), min_size=1, max_size=12).map(
    lambda text: f"s3cr3t{text}s3cr3t"
)
#: Passwords without `:/`. With it, a connection string could look like a chained address (`a::b://`).
opaque = secret.filter(lambda text: ":/" not in text)
#: Secrets in a query. They have no separators, because a query contains separators only in encoded form.
values = secret.filter(lambda text: not set(text) & set("#;'/@:?"))
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


@given(schemes, hosts, paths, parameters, values)
def test_no_secret_parameter_is_shown(scheme: str, host: str, path: str, name: str, password: str) -> None:
    """The parameter is in a query, in a fragment, or after a semicolon, as in addresses of databases."""
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


@given(schemes, hosts, paths, st.sampled_from(["sas", "code", "pw", "PW", "psw", "jwt"]), values)
def test_short_names_of_secrets_count_in_a_query(scheme: str, host: str, path: str, name: str, password: str) -> None:
    shown = shown_uri(f"{scheme}://{host}{path}?a=1&{name}={password}&b=2")
    assert "s3cr3t" not in shown
    assert shown.endswith(f"?a=1&{name}=***&b=2")


@given(st.sampled_from(["%26", "%3B", "%3b", "%3F", "%23", "%2526"]), parameters, values, st.booleans())
def test_no_secret_behind_an_encoded_separator_is_shown(
    separator: str, name: str, password: str, encoded_equals: bool
) -> None:
    equals = "%3D" if encoded_equals else "="
    uri = f"https://example.org/login?next=%2Fx{separator}{name}{equals}{password}&b=2"
    assert shown_uri(uri) == f"https://example.org/login?next=%2Fx{separator}{name}{equals}***&b=2"


@given(secret, st.sampled_from(["PWD", "pwd", "Password"]), st.booleans())
def test_no_password_of_a_connection_string_in_a_parameter_is_shown(password: str, name: str, last: bool) -> None:
    password = "{" + password.replace("}", "}}") + "}"
    odbc = f"DRIVER={{ODBC Driver 18}};SERVER=h;UID=me;{name}={password}" + ("" if last else ";Encrypt=yes")
    shown = shown_uri(f"mssql+pyodbc:///?odbc_connect={quote_plus(odbc)}")
    assert "s3cr3t" not in shown
    assert "UID%3Dme" in shown


@given(
    st.sampled_from(["oracle", "oracle+cx_oracle", "postgresql", "mysql+pymysql", "REDIS"]),
    secret,
    hosts,
    st.booleans(),
)
def test_no_password_behind_a_slash_of_a_databases_address_is_shown(
    scheme: str, password: str, host: str, path: bool
) -> None:
    rest = f"{host}/x" if path else host
    assert shown_uri(f"{scheme}://scott/{password}@{rest}") == f"{scheme}://{rest}"


@given(users, hosts, st.lists(st.text(st.sampled_from("abZ0!$-"), min_size=1, max_size=5), min_size=1, max_size=3))
def test_no_password_with_a_space_in_an_address_is_shown(user: str, host: str, words: list[str]) -> None:
    uri = f"postgresql://{user}:s3cr3t {' s3cr3t'.join(words)} s3cr3t@{host}/x"
    assert without_secrets(f"store {uri}: refused") == f"store postgresql://{host}/x: refused"


names = st.sampled_from(
    ["password", "PASSWORD", "passwd", "pwd", "db_password", "sslpassword", "client_secret", "access_token", "token",
     "AWS_SECRET_ACCESS_KEY", "api_key", "apikey", "api-key", "AccountKey", "private_key", "passphrase"]
)  # fmt: skip


@given(names, st.text(st.sampled_from("abZ019!$-_=+/.%"), max_size=8).map("s3cr3t{}s3cr3t".format))
def test_no_value_that_a_text_names_as_a_secret_is_shown(name: str, password: str) -> None:
    for text in (
        f"host=db {name}={password} dbname=x", f"host=db {name}='{password} s3cr3t' dbname=x", f"{name}: {password}",
        f'{{"{name}": "{password}", "b": 2}}', f'{{"{name}":"{password} \\" s3cr3t"}}', f"{{'{name}': '{password}'}}",
        f'{{\\"{name}\\": \\"{password} s3cr3t\\"}}', f"a;{name}={{s3cr3t; s3cr3t}};b",
    ):  # fmt: skip
        shown = without_secrets(text)
        assert "s3cr3t" not in shown
        assert name in shown
        assert "***" in shown
        assert without_secrets(shown) == shown


@pytest.mark.parametrize(
    "text",
    ["Authorization: Bearer s3cr3t.s3cr3t-s3cr3t", "Authorization: Basic czNjcjN0s3cr3t==", "bearer s3cr3t refused",
     '{"authorization": "Bearer s3cr3t"}', "-H 'Authorization: Bearer s3cr3t'"],
)  # fmt: skip
def test_no_token_of_a_header_is_shown(text: str) -> None:
    assert "s3cr3t" not in without_secrets(text)


@pytest.mark.parametrize(
    "text",
    [
        "password: cannot be empty", "token: must not be blank", "401: password authentication failed for user me",
        "step key: 0123abc: key format changed", "keys: user_id, user_session", "ignored columns: token, password",
        "secrets.py:12: error", "/data/token.txt: cannot be read", "/run/secrets/token: permission denied",
        "the address holds a password, key or token, and MLflow shows parameters: take REDIS_PASSWORD",
        "source data: 3 of 9 rows are malformed: price must be a number (2 rows, the first: 'x' in a.csv line 4)",
        "a Bearer token is missing", "authors: me", "passed: 3, passes=4", "exit code=1", "a.csv: code: 12",
        "http://127.0.0.1:5000: refused; ask me@example.org", "see http://host:5000/x and write to me@example.org",
        "code=DE/part.csv", "gs://bucket/code=DE/part@1.csv", "s3://bucket/pw=1/x.csv", "at 12:00:00 UTC",
        "-P source=/data -P max_reject_ratio=0.1", "tokenizer: none", "redis://cache:6379: no answer for 5 s",
    ],
)  # fmt: skip
def test_ordinary_words_are_shown_as_they_are(text: str) -> None:
    assert without_secrets(text) == text


def test_a_long_text_is_masked_in_no_time() -> None:
    text = "a" * 20_000 + " " + "pass " * 5_000 + "x=" * 5_000 + "token" * 500
    assert without_secrets(text) == text


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


def test_a_block_keeps_its_spaces_and_steers_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    print_block("\nstep   run\nload   \x1b[31mred  https://me:s3cr3t@host/x\u202e")
    assert capsys.readouterr().out == "\nstep   run\nload   \\x1b[31mred  https://host/x\\u202e\n"
