"""The environment of functions and workers on every platform."""

from typing import Any

import pytest

from bridges import environment
from broker.messages.function import Function

BROKER = "nats://c-1@broker:4222"
FILES = {"password_file": "/s/password", "key_file": "/s/key"}


def function(**changes: Any) -> Function:
    return Function(**{"name": "c-1", "fabric": "test", "broker": BROKER, **changes})


def test_without_secrets_a_function_gets_its_broker_and_its_client() -> None:
    expected = {"FEDKEEPER_URL": BROKER, "FEDKEEPER_CLIENT": "c-1"}
    assert environment.with_secret_variables(function()) == (expected, {})
    assert environment.with_secret_files(function(), **FILES) == expected


def test_secrets_are_variables_or_files() -> None:
    secret = function(password="broker-password", key="sign-key")  # noqa: S106 (its name)
    plain, secrets = environment.with_secret_variables(secret)
    variable = "FEDKEEPER_SECRET_BROKER_PASSWORD"
    assert plain == {"FEDKEEPER_URL": f"{BROKER}?password_env={variable}", "FEDKEEPER_CLIENT": "c-1"}
    assert secrets == {variable: "broker-password", "FEDKEEPER_KEY": "sign-key"}
    assert environment.with_secret_files(secret, **FILES) == {
        "FEDKEEPER_URL": f"{BROKER}?password_file=/s/password",
        "FEDKEEPER_CLIENT": "c-1",
        "FEDKEEPER_KEY_FILE": "/s/key",
    }


def test_an_address_keeps_its_own_options() -> None:
    with_options = function(broker="tls://b:4222?ca_file=/ca.pem", password="p")  # noqa: S106 (its name)
    plain = environment.with_secret_variables(with_options).plain
    assert plain["FEDKEEPER_URL"] == "tls://b:4222?ca_file=/ca.pem&password_env=FEDKEEPER_SECRET_P"
    assert environment.with_secret_files(with_options, **FILES)["FEDKEEPER_URL"].endswith(
        "/ca.pem&password_file=/s/password"
    )


@pytest.mark.parametrize("password", ["", "p"])
def test_a_function_without_a_route_to_the_broker_gets_no_address(password: str) -> None:
    isolated = function(broker="", password=password)
    assert "FEDKEEPER_URL" not in environment.with_secret_variables(isolated).plain
    assert "FEDKEEPER_URL" not in environment.with_secret_files(isolated, **FILES)


def test_a_deployment_file_can_add_variables_and_change_none_of_ours() -> None:
    changed = function(env={"MINE": "1", "FEDKEEPER_CLIENT": "another", "FEDKEEPER_URL": "nats://evil"})
    expected = {"MINE": "1", "FEDKEEPER_URL": BROKER, "FEDKEEPER_CLIENT": "c-1"}
    assert environment.with_secret_variables(changed).plain == expected
    assert environment.with_secret_files(changed, **FILES) == expected


def test_a_worker_gets_further_variables_that_change_none_of_ours() -> None:
    variables = environment.for_worker(BROKER, "cpu", {"FEDKEEPER_ALLOW": "a", "FEDKEEPER_URL": "nats://evil"})
    assert variables == {**environment.for_worker(BROKER, "cpu"), "FEDKEEPER_ALLOW": "a"}


def test_a_worker_trains_with_one_thread() -> None:
    assert environment.for_worker(BROKER, "cuda:1") == {
        "FEDKEEPER_URL": BROKER,
        "FEDKEEPER_DEVICE": "cuda:1",
        "OMP_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
    }


def test_a_worker_s_log_is_readable_on_a_terminal() -> None:
    plain, terminal = (environment.for_worker(BROKER, "cpu", is_text=value) for value in (False, True))
    assert terminal.items() - plain.items() == {("FEDKEEPER_LOG", "text")}
    verbose = environment.for_worker(BROKER, "cpu", is_verbose=True)
    assert verbose.items() - plain.items() == {("FEDKEEPER_LOG_LEVEL", "debug")}
