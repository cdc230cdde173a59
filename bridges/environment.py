"""The environment of functions and workers: the variables that `client_fn/runtime/settings.py` reads.

`client_fn/site.py` reads and writes the others of the `FEDKEEPER_*` variables.
"""

from collections.abc import Mapping
from typing import Final, NamedTuple

from bridges.secrets import variable
from broker.messages.function import Function

URL: Final = "FEDKEEPER_URL"
CLIENT: Final = "FEDKEEPER_CLIENT"
KEY: Final = "FEDKEEPER_KEY"
KEY_FILE: Final = "FEDKEEPER_KEY_FILE"
DEVICE: Final = "FEDKEEPER_DEVICE"
LOG: Final = "FEDKEEPER_LOG"
LOG_LEVEL: Final = "FEDKEEPER_LOG_LEVEL"


class Environment(NamedTuple):
    """The environment of a function whose secrets are variables too.

    Attributes:
        plain: variables and their values, which are not secret.
        secrets: variables whose values are secrets, and the name of each one's secret.
    """

    plain: dict[str, str]
    secrets: dict[str, str]


def with_secret_variables(function: Function) -> Environment:
    """A function's environment on a platform that puts secrets into variables.

    The function's own variables can't replace ours.
    """
    plain, password = _plain(function), variable(function.password)
    if function.broker and function.password:
        plain[URL] = _with_option(function.broker, f"password_env={password}")
    named = {password: function.password, KEY: function.key}
    return Environment(plain, {name: secret for name, secret in named.items() if secret})


def with_secret_files(function: Function, *, password_file: str, key_file: str) -> dict[str, str]:
    """A function's environment on a platform that mounts secrets as files.

    The function's own variables can't replace ours.

    Args:
        function: the function as it should be.
        password_file: path of the broker's password, used if `function.password` names a secret.
        key_file: path of the key that triggers are signed with, used if `function.key` names a secret.
    """
    env = _plain(function)
    if function.broker and function.password:
        env[URL] = _with_option(function.broker, f"password_file={password_file}")
    if function.key:
        env[KEY_FILE] = key_file
    return env


def for_worker(
    broker: str, device: str, env: Mapping[str, str] = {}, *, is_text: bool = False, is_verbose: bool = False
) -> dict[str, str]:
    """The environment of a worker process on this machine.

    The further variables can't replace ours.

    Args:
        broker: address of the broker for models and updates.
        device: the device to train on, as torch names it.
        env: further variables.
        is_text: whether a person reads its log, which goes through a pipe.
        is_verbose: whether its log has all messages, and not only warnings.
    """
    log = ({LOG: "text"} if is_text else {}) | ({LOG_LEVEL: "debug"} if is_verbose else {})
    ours = {URL: broker, DEVICE: device, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    return {**env, **ours, **log}


def _plain(function: Function) -> dict[str, str]:
    url = {URL: function.broker} if function.broker else {}
    return {**function.env, **url, CLIENT: function.name}


def _with_option(url: str, option: str) -> str:
    return f"{url}{'&' if '?' in url else '?'}{option}"
