"""No text and no address keeps a secret, whatever it looks like."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import Callable
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpt_dist.errors import HptError, Problem, RecipeError
from hpt_dist.errors.secrets import public_address, without_secrets
from hpt_dist.processes.output import SafeFormatter

SECRET_ADDRESSES = {
    "http://ada:planted@h:9/x": "http://h:9/x",
    "http://ada:pl@nted@h/planted": "http://h/planted",
    "http://ada:planted/with/slash@h:80/x": "http://h:80/x",
    "https://planted@h/x": "https://h/x",
    "https://:planted@h": "https://h",
    "https://ada:pl%40nted@[::1]:9/x": "https://[::1]:9/x",
    "s3://KEY:planted/with+slash=@bucket/p": "s3://bucket/p",
    "postgresql+psycopg2://ada:planted@h:5432/runs": "postgresql+psycopg2://h:5432/runs",
    "http://h/x?token=planted&a=1": "http://h/x?token=***&a=1",
    "http://h/x?a=1&X-Amz-Signature=planted#y": "http://h/x?a=1&X-Amz-Signature=***#y",
    "http://h/x?AWSAccessKeyId=planted&Signature=planted": (
        "http://h/x?AWSAccessKeyId=***&Signature=***"
    ),
}
BARE_ADDRESSES = {
    "ada:planted@h:8080": "h:8080",
    "ada:pl/an@ted@h/x": "h/x",
    "//ada:planted@h": "h",
}
PUBLIC = [
    "http://h:80/a@b",
    "http://[::1]:9/x@y",
    "s3://bucket/pre:fix/x@y",
    "models:/NAME@ALIAS",
    "sqlite:////a/b@c:d/token=x/mlflow.db",
    "/a folder/x@y:z?token=1",
    "http://h/x?a=1&page=2#token",
    "",
]


@pytest.mark.parametrize(("address", "public"), SECRET_ADDRESSES.items())
def test_addresses_lose_their_secrets_alone(address: str, public: str) -> None:
    assert public_address(address) == public
    assert without_secrets(f"see '{address}', then", {}) == f"see '{public}', then"


@pytest.mark.parametrize(("address", "public"), BARE_ADDRESSES.items())
def test_an_address_without_its_scheme_loses_its_password(address: str, public: str) -> None:
    assert public_address(address) == public
    password = address.rpartition("@")[0].partition(":")[2] + "-1"
    known = {"HTTP_PROXY": f"ada:{password}@h:8080"}
    assert without_secrets(f"no proxy {password}", known) == "no proxy ***"


@pytest.mark.parametrize("address", PUBLIC)
def test_other_addresses_stay_as_they_are(address: str) -> None:
    assert public_address(address) == address


def test_a_path_made_of_an_address_is_one_too() -> None:
    assert without_secrets("/x/http:/ada:planted@h/y: no", {}) == "/x/http:/h/y: no"
    assert without_secrets("models:/NAME@ALIAS", {}) == "models:/NAME@ALIAS"


@given(st.text(st.characters(codec="ascii", exclude_characters="@"), min_size=1))
def test_an_address_without_secrets_stays_so(password: str) -> None:
    """Whatever stands between a colon and the last @ behind it goes, and only once."""
    address = public_address(f"http://ada:x{password}x@host/path")
    assert address == public_address(address) == "http://host/path"


@pytest.mark.parametrize(
    "name",
    [
        *("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "MLFLOW_TRACKING_PASSWORD", "HF_TOKEN"),
        *("MLFLOW_TRACKING_TOKEN", "GITHUB_TOKEN", "WANDB_API_KEY", "PGPASSWORD", "MYSQL_PWD"),
        *("GH_PAT", "NPM_AUTH", "SLURM_JWT", "PASS", "AZURE_STORAGE_CONNECTION_STRING"),
        *("AZURE_STORAGE_KEY", "AZURE_CLIENT_SECRET", "HPT_SECRET", "AWS_ACCESS_KEY_ID"),
    ],
)
def test_values_of_secret_variables_are_left_out(name: str) -> None:
    assert without_secrets("it is planted-value.", {name: "planted-value"}) == "it is ***."


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PWD", "/home/ada"),
        ("AWS_SHARED_CREDENTIALS_FILE", "/home/ada"),
        ("AWS_WEB_IDENTITY_TOKEN_FILE", "/home/ada"),
        ("TOKENIZERS_PARALLELISM", "/home/ada"),
        ("HOME", "/home/ada"),
        ("HF_TOKEN", "ada"),  # too short to be one
    ],
)
def test_other_values_stay(name: str, value: str) -> None:
    assert without_secrets("in /home/ada", {name: value}) == "in /home/ada"


def test_passwords_of_addresses_in_the_environment_are_known_by_themselves() -> None:
    variables = {
        "HTTPS_PROXY": "http://ada:pl%40nted-1@h:9",
        "AWS_ENDPOINT_URL": "https://planted-2@h",
        "ANY": "http://h/?sig=planted-3",
    }
    text = "nonnumeric port: 'pl@nted-1@h', pl%40nted-1, planted-2, planted-3"
    assert without_secrets(text, variables) == "nonnumeric port: '***@h', ***, ***, ***"


@pytest.mark.parametrize("value", ["password", "monitor", "Secret", "minioadmin", "123456"])
def test_words_and_numbers_stay_readable_but_in_their_places(value: str) -> None:
    variables = {"MLFLOW_TRACKING_PASSWORD": value, "ANY": f"http://ada:{value}@h"}
    text = f"{value}: see http://ada:{value}@h/?token={value}"
    assert without_secrets(text, variables) == f"{value}: see http://h/?token=***"


@pytest.mark.parametrize("form", [str, ascii, json.dumps, quote])
def test_a_secret_is_found_however_a_program_quotes_it(form: Callable[[str], str]) -> None:
    secret = """a'b"c\\d/ü e"""
    assert "***" in without_secrets(f"x {form(secret)} y", {"HF_TOKEN": secret})
    assert "d/" not in without_secrets(f"x {form(secret)} y", {"HF_TOKEN": secret})


def test_secrets_of_headers_and_options_are_found_by_their_place() -> None:
    for text in ("Authorization: Bearer planted-value", "host=h password=planted dbname=x"):
        assert "planted" not in without_secrets(text, {})


def test_errors_hold_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "planted-value")
    words = "x planted-value http://ada:planted@h y"
    problem = Problem(words, where=words, allowed=words, fix=words)
    for error in (
        HptError(words, where=words, allowed=words, fix=words),
        RecipeError([problem, problem]),
    ):
        for text in (str(error), repr(error), *vars(error.problem).values()):
            assert "planted" not in text


def test_logs_and_tracebacks_hold_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "planted-value")
    failure = (ValueError, ValueError("planted-value"), None)
    words = ("%s", ("http://ada:planted@h",))
    record = logging.LogRecord("x", logging.ERROR, "x", 1, *words, failure)
    assert "ValueError: ***" in SafeFormatter().format(record)
    assert "planted" not in SafeFormatter().format(record)
    code = (
        "import logging; from hpt_dist.processes.output import guard_errors; guard_errors();"
        "logging.getLogger().warning('planted-value');"
        "raise KeyError('http://ada:planted@h')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "KeyError: 'http://h'" in done.stderr
    assert "planted-value" not in done.stderr
