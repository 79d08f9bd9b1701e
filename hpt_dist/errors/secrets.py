"""Addresses and texts without the secrets in them: passwords, tokens, keys.

Secrets stay in the environment, which the processes of trials inherit. What is shown or stored goes
through here: addresses by `public_address`, and errors, logs and output by `without_secrets`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from urllib.parse import unquote

_MARK = "***"
# A shorter value would be a part of ordinary words; in an address it is found by its place.
_SHORTEST = 6

_WORDS = r"password|passwd|passphrase|pwd|secret|token|signature|credential|api_?key|access_?key"
# The user and password of an address. A password with a slash, which is no valid address, is found
# behind a colon that no port follows.
_USER = r"(?:{one}*@|[^\s/?#@:\[]*:(?!\d*(?:[/?#\s'\"]|$)){any}*@)"
_USER_OF_ADDRESS = re.compile(r"^([\w+.-]+://)" + _USER.format(one="[^/?#]", any="."), re.DOTALL)
# A path made of an address has one slash.
_USER_IN_TEXT = re.compile(
    r"(://|\b(?:https?|ftp|s3):/)" + _USER.format(one=r'[^\s/?#"<>]', any=r'[^\s"<>]')
)
_FIELD = re.compile(
    rf"([?&;](?:[\w.~-]*(?:{_WORDS}|key|auth)[\w.~-]*|sig|pass|pw)=)([^&;#\s\"'<>]+)", re.IGNORECASE
)
_VARIABLE = re.compile(rf"(?:{_WORDS}|_key|_pass)(?:_id)?(?:_|$)", re.IGNORECASE)
# These hold the name of a file or a folder, or an address.
_NO_SECRET = re.compile(r"(?:^(?:OLD)?PWD|_(?:FILE|PATH|DIR|URI|URL|SOCK))$", re.IGNORECASE)


def public_address(address: str) -> str:
    """Return an address without user, password and the secrets of its query.

    Args:
        address: such as `https://user:password@host/path?token=x`; a path is returned as it is.
    """
    if "://" not in address or address.startswith("sqlite:"):  # a path
        return address
    return _FIELD.sub(rf"\1{_MARK}", _USER_OF_ADDRESS.sub(r"\1", address))


def without_secrets(text: str, environment: Mapping[str, str] | None = None) -> str:
    """Return a text without the secrets of the addresses in it and of the environment.

    Args:
        text: of an error, a log or anything that is printed.
        environment: the variables whose values are secret if their names say so, or if they are
            the passwords of addresses; the process's by default.
    """
    if not text:
        return text
    known = set(_known(os.environ if environment is None else environment))
    for value in sorted(known, key=len, reverse=True):
        text = text.replace(value, _MARK)
    return _FIELD.sub(rf"\1{_MARK}", _USER_IN_TEXT.sub(r"\1", text))


def _known(environment: Mapping[str, str]) -> Iterator[str]:
    """Yield the values that are secret, each as it stands and decoded."""
    for name, value in environment.items():
        secret = [value.strip()] if _VARIABLE.search(name) and not _NO_SECRET.search(name) else []
        if "://" in value:
            secret += [field[2] for field in _FIELD.finditer(value)]
            if user := _USER_OF_ADDRESS.match(value):
                name_, colon, password = user[0].partition("://")[2][:-1].partition(":")
                secret.append(password if colon else name_)
        for one in secret:
            yield from (form for form in (one, unquote(one)) if len(form) >= _SHORTEST)
