"""URIs and messages as they may be printed or stored: without users, passwords and tokens."""

import re

#: A scheme, and the one or two slashes behind it; connection strings of databases may have none.
_SCHEME = r"[A-Za-z][A-Za-z0-9+.\-]*:/{0,2}"
#: User and password with spaces in it, up to the `@`: what follows the colon is no port, and starts without a space.
_SPACED_LOGIN = r"""(?<=://)[^\s/@:'"<>]*:(?!\d+(?:[^\w]|$))[^\s@][^\n]{0,200}@(?=[\w\[])"""
#: A URI in a text, up to a space or a quote. A password may hold a quote, so what stands before an `@` belongs to it.
_URI = re.compile(rf"""{_SCHEME}(?:\S*@|{_SPACED_LOGIN})?[^\s'"<>]*""")
#: What the name of a secret holds.
_SECRET_NAME = r"(?:pass|pwd|secret|token|(?:api|access|account|private)[_\-]?key|sig|credential|auth)"
#: Percent-encoded `&`, `;`, `?`, `#` and space, and `=`; the percent sign may itself be encoded.
_SEPARATOR, _EQUALS = r"%(?:25)*(?:26|3B|3F|23|20)\+*", r"%(?:25)*3D"
#: The value of a parameter whose name says that it is a secret. In an address any kind of key is one.
_SECRET = re.compile(
    rf"""([?&;#\s]|[?&][\w.\-]+=|{_SEPARATOR}|^)((?:[\w.\-]*{_SECRET_NAME}[\w.\-]*|[\w.\-]*key)=)(?:\{{[^}}]*\}}|[^&;\s'"]*)""",
    re.IGNORECASE,
)
#: The same of short names, which are common words elsewhere.
_SHORT_NAME = re.compile(rf"""([?&]|{_SEPARATOR})((?:sas|code|pw|psw|jwt)=)[^&;\s'"]*""", re.IGNORECASE)
#: The same within a parameter that is a connection string itself (`odbc_connect`). It may end with a brace, so all of
#: the parameter that follows is left out.
_ENCODED = re.compile(
    rf"""()(?<![\w.\-])([\w.\-]*(?:{_SECRET_NAME}|pw|key)[\w.\-]*{_EQUALS})[^&\s'"]*""", re.IGNORECASE
)
#: A query at the end of a URI.
_QUERY = re.compile(r"\?[A-Za-z_][\w.\-]*=[^?]*$", re.DOTALL)
#: User and password of an address within a query.
_LOGIN = re.compile(r"(?<=://)[^/?#&]*@")
#: A connection string without `://`: scheme, user, and password.
_OPAQUE = re.compile(r"^([A-Za-z][A-Za-z0-9+.\-]*:/?)(?!/)[^/\s]*:.*@", re.DOTALL)
#: Between the parts of a chained address.
_CHAIN = re.compile(r"::(?=[A-Za-z][A-Za-z0-9+.\-]*://)")
_HIDDEN = "***"
#: Schemes of databases, whose passwords may hold a `/`: `oracle://user/password@host`. No `@` is in their paths.
_DATABASE = re.compile(
    r"(oracle|postgres(ql)?|mysql|mariadb|mssql|rediss?|mongodb|snowflake|db2|amqps?)\b", re.IGNORECASE
)
#: A secret in a text: a name that ends with one of these words, and a value in quotes or up to a space.
_NAMED = re.compile(
    r"""(?<![\w./\\-])([\w.\-]*(?:password|passwd|passphrase|pwd|secret|token|(?:api|access|account|private)[_\-]?key"""
    r"""|authorization)\\?["']?\s*[:=]\s*)"""
    # Words that follow the name in messages, such as `password: must not be empty`.
    r"""(?!(?:a|an|the|is|must|may|can|cannot|not|no|none|null|has|should|expected|missing|invalid|wrong|required|denied"""
    r"""|failed|empty|unknown|true|false)\b)"""
    r"""(?:(?:Basic|Bearer|Digest|Token)\s+)?"""
    r"""(?:\{[^}]*\}|\\".*?(?:\\"|$)|b?"(?:\\.|[^"\\])*(?:"|$)|b?'(?:\\.|[^'\\])*(?:'|$)|[^\s,;&}\])"']+)""",
    re.IGNORECASE,
)
#: The value of an `Authorization` header.
_BEARER = re.compile(r"\b(Bearer\s+)(?!(?:token|auth\w*|error|realm|scheme|is)\b)[\w.~+/\-]+=*", re.IGNORECASE)
#: Schemes of Azure's storage, whose addresses name the container in the place of a user.
_WITH_CONTAINER = ("abfs", "wasb")


def shown_uri(uri: str) -> str:
    """A URI as it may be printed or stored: without user and password, and without the values of secret parameters.

    Where it is not plain what belongs to the password, such as one with a `/` in it, too much is left out rather than
    too little. Each part of a chained address (`simplecache::s3://...`) is a URI of its own.
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
    """A text, such as an error of another library, with every URI in it as `shown_uri` has it.

    Left out are also values after a name such as `password` (`password=`, `password:`, JSON), and bearer tokens.
    """
    text = _URI.sub(lambda match: shown_uri(match[0]), text)
    text = _NAMED.sub(lambda match: f"{match[1]}{_HIDDEN}", text)
    return _BEARER.sub(lambda match: f"{match[1]}{_HIDDEN}", text)


def names_a_secret(name: str) -> bool:
    """Whether a variable's or parameter's name says that its value is a secret; a path of a file with one is none."""
    if name == "NOTIFY_URL":  # whoever knows the address can post there
        return True
    return bool(re.search(_SECRET_NAME, name, re.IGNORECASE)) and name != "GOOGLE_APPLICATION_CREDENTIALS"
