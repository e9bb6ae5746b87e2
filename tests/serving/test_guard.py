"""Access control: the token that requests need, and the file that holds it."""

import base64
from pathlib import Path

import click
import pytest

from purchase_predict.serving.guard import _has_token, token_of

TOKEN = "0123456789abcdef0123"


def test_other_machines_need_a_token() -> None:
    for host in ("0.0.0.0", "::", "10.0.0.7", "shop.example.org"):
        with pytest.raises(
            click.ClickException, match=f"^host={host}: other machines can reach the server, so a token is"
        ):
            token_of("", host)
    assert [token_of("", host) for host in ("127.0.0.1", "localhost", "::1")] == ["", "", ""]


def test_the_token_is_the_files_only_line(tmp_path: Path) -> None:
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    assert token_of(str(tmp_path / "token"), "0.0.0.0") == TOKEN
    assert token_of(str(tmp_path / "token"), "127.0.0.1") == TOKEN


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_byte_order_mark_is_no_part_of_the_token(encoding: str, tmp_path: Path) -> None:
    """Programs on Windows write such files: their lines end with `\\r\\n`, and PowerShell writes UTF-16."""
    (tmp_path / "token").write_bytes(f"{TOKEN}\r\n".encode(encoding))
    assert token_of(str(tmp_path / "token"), "0.0.0.0") == TOKEN


@pytest.mark.parametrize("text", ["", "short", f"{TOKEN}\n{TOKEN}", f"{TOKEN} {TOKEN}", f"{TOKEN}ü"])
def test_a_file_without_a_good_token_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "token").write_text(text)
    with pytest.raises(click.ClickException, match="must hold one token of at least 16 printable ASCII characters"):
        token_of(str(tmp_path / "token"), "127.0.0.1")
    with pytest.raises(click.ClickException, match="cannot be read"):
        token_of(str(tmp_path / "nothing"), "127.0.0.1")


def basic(text: str) -> str:
    return "Basic " + base64.b64encode(text.encode()).decode()


@pytest.mark.parametrize(
    ("header", "let_in"),
    [
        (f"Bearer {TOKEN}", True),
        (f"bearer {TOKEN}", True),
        (basic(f"anybody:{TOKEN}"), True),
        ("", False),
        (TOKEN, False),
        (f"Bearer {TOKEN}x", False),
        (f"Bearer {TOKEN[:-1]}", False),
        ("Bearer ", False),
        (f"Digest {TOKEN}", False),
        (basic(TOKEN), False),
        (basic(f"{TOKEN}:"), False),
        ("Basic ***", False),
        ("Bearer \xff\xfe", False),
    ],
)
def test_only_the_whole_token_lets_in(header: str, let_in: bool) -> None:
    assert _has_token(header, TOKEN.encode()) is let_in
