"""MLflow's address: what of it is shown and stored, and how its password reaches the client.

Records, orders and texts hold the address without its password. The whole of it is in the variable
MLFLOW_TRACKING_URI, which trials and jobs inherit.
"""

from __future__ import annotations

import os
from urllib.parse import unquote, urlsplit

from hpt_dist.errors.secrets import public_address

VARIABLE = "MLFLOW_TRACKING_URI"
EXPERIMENT_VARIABLE = "MLFLOW_EXPERIMENT_NAME"
_USER, _PASSWORD = "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"


def given(address: str) -> str:
    """Return an address as it may be shown and stored; if it holds a secret, keep that in VARIABLE.

    Args:
        address: as a user gave it, or as an old record holds it; empty for none.
    """
    shown = public_address(address)
    if shown != address:
        os.environ[VARIABLE] = address
    return shown


def reached(shown: str) -> str:
    """Return what MLflow's client takes for an address.

    User and password of a server go to MLflow's own variables, for its errors show the address.
    Those of a database stay in the address. If the variables hold those of another server, they
    are deleted.
    """
    if shown.startswith("sqlite:") and "%" in shown:
        # For the plain name MLflow would also make a folder whose name has the %XX in it.
        return shown.replace("sqlite:", "sqlite+pysqlite:", 1)
    whole = os.environ.get(VARIABLE, "")
    user, password = credentials(whole)
    if public_address(whole) != public_address(shown):
        if user and (user, password) == (os.environ.get(_USER), os.environ.get(_PASSWORD)):
            del os.environ[_USER], os.environ[_PASSWORD]
        whole = shown
        user, password = credentials(whole)
    if not (user and password):
        return whole
    os.environ[_USER], os.environ[_PASSWORD] = user, password
    return public_address(whole)


def credentials(address: str) -> tuple[str, str]:
    """Return user and password of a server's address; empty without."""
    try:
        parts = urlsplit(address)
    except ValueError:  # MLflow reports it
        return "", ""
    if parts.scheme not in ("http", "https"):
        return "", ""
    return unquote(parts.username or ""), unquote(parts.password or "")
