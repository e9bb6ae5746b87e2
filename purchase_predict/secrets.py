"""URIs and messages as they may be printed or stored: without users, passwords and tokens."""

import re

#: A scheme and up to two slashes after it; connection strings of databases may have no slash.
_SCHEME = r"[A-Za-z][A-Za-z0-9+.\-]*:/{0,2}"
#: `<user>:<password>@` with spaces in the password. After the colon there is neither a port nor a space.
_SPACED_LOGIN = r"""(?<=://)[^\s/@:'"<>]*:(?!\d+(?:[^\w]|$))[^\s@][^\n]{0,200}@(?=[\w\[])"""
#: A URI in a text, up to a space or a quote. Quotes before an `@` belong to the URI, because a password may hold them.
_URI = re.compile(rf"""{_SCHEME}(?:\S*@|{_SPACED_LOGIN})?[^\s'"<>]*""")
#: A part of a name that marks the name's value as a secret.
_SECRET_NAME = r"(?:pass|pwd|secret|token|(?:api|access|account|private)[_\-]?key|sig|credential|auth)"
#: Percent-encoded separators (`&`, `;`, `?`, `#`, space) and percent-encoded `=`. The percent sign may be encoded, too.
_SEPARATOR, _EQUALS = r"%(?:25)*(?:26|3B|3F|23|20)\+*", r"%(?:25)*3D"
#: A parameter of a URI whose name marks its value as a secret. In a URI, every name that ends with `key` counts, too.
_SECRET = re.compile(
    rf"""([?&;#\s]|[?&][\w.\-]+=|{_SEPARATOR}|^)((?:[\w.\-]*{_SECRET_NAME}[\w.\-]*|[\w.\-]*key)=)(?:\{{[^}}]*\}}|[^&;\s'"]*)""",
    re.IGNORECASE,
)
#: The same as `_SECRET`, for short names. They count only in the query of a URI: elsewhere they are common words.
_SHORT_NAME = re.compile(rf"""([?&]|{_SEPARATOR})((?:sas|code|pw|psw|jwt)=)[^&;\s'"]*""", re.IGNORECASE)
#: The same as `_SECRET`, for a secret in a connection string that is itself the percent-encoded value of a parameter
#: (`odbc_connect`). Such a secret may be in braces and contain separators. So it is unclear where it ends, and the rest
#: of the parameter is masked.
_ENCODED = re.compile(
    rf"""()(?<![\w.\-])([\w.\-]*(?:{_SECRET_NAME}|pw|key)[\w.\-]*{_EQUALS})[^&\s'"]*""", re.IGNORECASE
)
#: A query at the end of a URI.
_QUERY = re.compile(r"\?[A-Za-z_][\w.\-]*=[^?]*$", re.DOTALL)
#: User and password of an address within a query.
_LOGIN = re.compile(r"(?<=://)[^/?#&]*@")
#: A connection string without `://`: scheme, user, and password.
_OPAQUE = re.compile(r"^([A-Za-z][A-Za-z0-9+.\-]*:/?)(?!/)[^/\s]*:.*@", re.DOTALL)
#: The separator between the parts of a chained address, such as `simplecache::s3://...`.
_CHAIN = re.compile(r"::(?=[A-Za-z][A-Za-z0-9+.\-]*://)")
_HIDDEN = "***"
#: Schemes of databases. In their URIs, the login may contain a `/` (`oracle://user/password@host`), and the path has no
#: `@`. So everything up to the last `@` is the login.
_DATABASE = re.compile(
    r"(oracle|postgres(ql)?|mysql|mariadb|mssql|rediss?|mongodb|snowflake|db2|amqps?)\b", re.IGNORECASE
)
#: A secret in a text: a name that ends with one of these words, and a value in quotes or up to a space.
_NAMED = re.compile(
    r"""(?<![\w./\\-])([\w.\-]*(?:password|passwd|passphrase|pwd|secret|token|(?:api|access|account|private)[_\-]?key"""
    r"""|authorization)\\?["']?\s*[:=]\s*)"""
    # Not a secret: words that follow the name in messages, such as `password: must not be empty`.
    r"""(?!(?:a|an|the|is|must|may|can|cannot|not|no|none|null|has|should|expected|missing|invalid|wrong|required|denied"""
    r"""|failed|empty|unknown|true|false)\b)"""
    r"""(?:(?:Basic|Bearer|Digest|Token)\s+)?"""
    r"""(?:\{[^}]*\}|\\".*?(?:\\"|$)|b?"(?:\\.|[^"\\])*(?:"|$)|b?'(?:\\.|[^'\\])*(?:'|$)|[^\s,;&}\])"']+)""",
    re.IGNORECASE,
)
#: A bearer token, as in an `Authorization` header.
_BEARER = re.compile(r"\b(Bearer\s+)(?!(?:token|auth\w*|error|realm|scheme|is)\b)[\w.~+/\-]+=*", re.IGNORECASE)
#: Schemes of Azure's storage, whose addresses name the container in the place of a user.
_WITH_CONTAINER = ("abfs", "wasb")


def shown_uri(uri: str) -> str:
    """A URI as it may be printed or stored: without user and password, and without the values of secret parameters.

    If it is unclear where the password ends, for example because of a `/` in it, too much is removed rather than too
    little. Each part of a chained address (`simplecache::s3://...`) is treated as a URI.
    """
    return "::".join(_shown(part) for part in _CHAIN.split(uri))


def _shown(uri: str) -> str:
    uri = _OPAQUE.sub(r"\1", uri)
    scheme, separator, rest = uri.partition("://")
    if not separator:
        return _without_parameters(uri)
    query = _QUERY.search(rest)
    place, parameters = (rest[: query.start()], query[0]) if query else (rest, "")
    authority = re.split(r"[/?#]", place, maxsplit=1)[0]
    if "@" in place and (":" in authority or _DATABASE.match(scheme)):
        place = place.rpartition("@")[2]  # the password may hold any character
    elif "@" in authority and not scheme.lower().startswith(_WITH_CONTAINER):
        place = authority.rpartition("@")[2] + place[len(authority) :]
    return f"{scheme}{separator}{_without_parameters(place + _LOGIN.sub('', parameters))}"


def _without_parameters(uri: str) -> str:
    for parameter in (_SECRET, _SHORT_NAME, _ENCODED):
        uri = parameter.sub(_hide, uri)
    return uri


def _hide(match: re.Match[str]) -> str:
    return f"{match[1]}{match[2]}{_HIDDEN}"


def without_secrets(text: str) -> str:
    """A text, such as an error of another library, with each URI in it replaced by its `shown_uri`.

    Values after a name such as `password` (`password=`, `password:`, JSON) and bearer tokens are masked, too.
    """
    text = _URI.sub(lambda match: shown_uri(match[0]), text)
    text = _NAMED.sub(lambda match: f"{match[1]}{_HIDDEN}", text)
    return _BEARER.sub(lambda match: f"{match[1]}{_HIDDEN}", text)


def names_a_secret(name: str) -> bool:
    """Whether the name of a variable or parameter marks its value as a secret.

    GOOGLE_APPLICATION_CREDENTIALS does not: its value is the path of a file.
    """
    if name == "NOTIFY_URL":  # whoever knows the address can post there
        return True
    return bool(re.search(_SECRET_NAME, name, re.IGNORECASE)) and name != "GOOGLE_APPLICATION_CREDENTIALS"
