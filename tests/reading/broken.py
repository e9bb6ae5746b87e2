"""Random CSV text with odd pieces in it, as broken programs write it."""

from hypothesis import strategies as st

from tests.reading.box import HEADER, bad

#: Bytes that are put into the rows.
_pieces = st.one_of(
    st.just(b'"'), st.just(b","), st.just(b"\n"), st.just(b"\r\n"), st.just(b"\r"), st.just(b"\0"), st.just(b" "),
    st.just(b'""'), st.just(b'","'), st.just(b'" ,'), st.just(b"\n\n"), st.just(b"\xff"), st.just(b"\xef\xbb\xbf"),
    st.just("é".encode("latin-1")), st.just("日本".encode("utf-16")), st.just("ü".encode()), st.just(b"x" * 2_100_000),
    st.just(b"1.0"), st.just(b"12.7"), st.just(b"-1"), st.just(b'"a\nb"'), st.just(b"'"), st.just(b"\\"),
    st.binary(max_size=12),
)  # fmt: skip

#: Values of the column `brand`, as fields of CSV.
_fields = st.sampled_from(["", "acme", '"a,b"', '"a ""quoted"" b"', '"two\nlines"', "ü", 'in"ch', "'", '"x\r\ny"'])


@st.composite
def broken_csv(draw: st.DrawFn) -> bytes:
    """Good rows with odd pieces at random places below the header, sometimes truncated."""
    ending = draw(st.sampled_from(["\n", "\r\n"]))
    rows = draw(st.lists(_fields, min_size=1, max_size=12))
    body = bytearray((ending.join(bad(brand=field) for field in rows) + ending).encode())
    for _ in range(draw(st.integers(0, 4))):
        place = draw(st.integers(0, len(body)))
        body[place : place + draw(st.integers(0, 3))] = draw(_pieces)
    if draw(st.booleans()):
        del body[draw(st.integers(0, len(body))) :]
    return (HEADER + ending).encode() + bytes(body)
