"""The environment that a function is started with: the only place that writes its `FEDKEEPER_*` variables.

`client_fn/runtime/settings.py` reads them.
"""

from typing import Final, NamedTuple

from bridges.secrets import variable
from broker.messages.function import Function

URL: Final = "FEDKEEPER_URL"
CLIENT: Final = "FEDKEEPER_CLIENT"
KEY: Final = "FEDKEEPER_KEY"
KEY_FILE: Final = "FEDKEEPER_KEY_FILE"
DEVICE: Final = "FEDKEEPER_DEVICE"


class Environment(NamedTuple):
    """A function's environment where secrets are variables too.

    Attributes:
        plain: variables whose values anybody may see.
        secrets: the name of the secret that each other variable's value is.
    """

    plain: dict[str, str]
    secrets: dict[str, str]


def with_secret_variables(function: Function) -> Environment:
    """A function's environment on a platform that puts secrets into variables; ours go before the function's own."""
    plain, password = _plain(function), variable(function.password)
    if function.broker and function.password:
        plain[URL] = _with_option(function.broker, f"password_env={password}")
    named = {password: function.password, KEY: function.key}
    return Environment(plain, {name: secret for name, secret in named.items() if secret})


def with_secret_files(function: Function, *, password_file: str, key_file: str) -> dict[str, str]:
    """A function's environment on a platform that mounts secrets as files; ours go before the function's own.

    Args:
        function: as it should be.
        password_file: where it finds the broker's password, if `function.password` names one.
        key_file: where it finds the key that calls are signed with, if `function.key` names one.
    """
    env = _plain(function)
    if function.broker and function.password:
        env[URL] = _with_option(function.broker, f"password_file={password_file}")
    if function.key:
        env[KEY_FILE] = key_file
    return env


def of_worker(broker: str, device: str) -> dict[str, str]:
    """The environment of a worker process on this machine.

    Args:
        broker: address that it fetches models from and publishes updates to.
        device: what it trains on, as torch names it.
    """
    return {URL: broker, DEVICE: device, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


def _plain(function: Function) -> dict[str, str]:
    reached = {URL: function.broker} if function.broker else {}
    return {**function.env, **reached, CLIENT: function.name}


def _with_option(url: str, option: str) -> str:
    return f"{url}{'&' if '?' in url else '?'}{option}"
