"""MLflow's errors in our words, each with what to do."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator

from hpt_dist.errors import HptError
from hpt_dist.page import one_line

_LOGIN = (
    "log in: set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_URI to "
    "the address with both"
)
_OTHER_LOGIN = (
    "correct MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or the login in "
    "MLFLOW_TRACKING_URI; the server's admin can set the password anew"
)
_OTHER_EXPERIMENT = (
    "name an experiment of your own (in the recipe `mlflow: {experiment: NAME}`, or `--set "
    "mlflow.experiment=NAME`), or ask its owner for the right to edit it"
)
_LOST = "nothing is lost, `hpt-dist sync` sends the rest"
# SQLAlchemy's words for a database in a file, and what to do. Its further lines are SQL.
_DATABASE_FIXES = {
    "readonly database": "give this user the right to write the file and its folder",
    "unable to open database": "give this user the right to write the file and its folder",
    "disk is full": "free some space there",
    "database is locked": "stop the program that locks the file",
    "is not a database": "move the file away",
    "disk image is malformed": "move the file away",
}
_LONGEST = 500  # characters of MLflow's own words
_UNKNOWN_LOGIN = re.compile(r"error code 401|UNAUTHENTICATED|CUSTOMER_UNAUTHORIZED")
_NO_RIGHT = re.compile(r"error code 403|PERMISSION_DENIED")


@contextlib.contextmanager
def explaining(tracking_uri: str, experiment: str = "", lost: str = _LOST) -> Iterator[None]:
    """Turn any error of MLflow into an HptError with a fix.

    Args:
        tracking_uri: MLflow's address.
        experiment: where the run is or would be; empty if that is not known.
        lost: what the failure costs, in words.
    """
    try:
        yield
    except HptError:
        raise
    except Exception as error:
        raise explained(error, tracking_uri, experiment, lost) from error


def explained(
    error: Exception, tracking_uri: str, experiment: str = "", lost: str = _LOST
) -> HptError:
    """Return an error of MLflow as one that says what is wrong and what to do."""
    if isinstance(error, HptError):
        return error
    text = str(error).partition("\n[SQL:")[0]
    if login := login_fault(error):
        what, fix = login
    elif lacks_right(error):
        place = f"the experiment {experiment}" if experiment else "this experiment"
        what = f"MLflow does not let {_user() or 'this user'} write to {place} (403)"
        fix = _OTHER_EXPERIMENT
    else:
        what = f"MLflow failed: {type(error).__name__}: {one_line(text, _LONGEST)}"
        fixes = (fix for words, fix in _DATABASE_FIXES.items() if words in text)
        fix = next(fixes, "start it or correct its address")
    return HptError(what, where=tracking_uri, fix="; ".join(filter(None, (fix, lost))))


def login_fault(error: Exception) -> tuple[str, str] | None:
    """Return what is wrong with the login and what to do; None where nothing is."""
    if not _UNKNOWN_LOGIN.search(str(error)):
        return None
    if user := _user():
        return f"MLflow does not know the login of user {user} (401)", _OTHER_LOGIN
    return "MLflow wants a login (401)", _LOGIN


def lacks_right(error: Exception) -> bool:
    """Return whether MLflow knows the user, who may not do what was asked."""
    return bool(_NO_RIGHT.search(str(error)))


def _user() -> str:
    return os.environ.get("MLFLOW_TRACKING_USERNAME", "")
