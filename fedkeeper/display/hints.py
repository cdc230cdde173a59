"""Commands that a person may type next, each on a line of its own so that it can be pasted."""

import shlex

from broker import BrokerUrl


def goes_on(job: str, url_option: str) -> str:
    """Return what is said to a person who stops following a job that goes on.

    Args:
        job: the job's id.
        url_option: the option that names the broker, with a space before it; empty: it is not needed.
    """
    commands = (f"  fedkeeper {verb} {job}{url_option}" for verb in ("watch", "fetch", "cancel"))
    return "\n".join((f"stopped; job {job} goes on. To follow it, to fetch its results, or to end it:", "", *commands))


def has_ended(job: str, url_option: str) -> str:
    """Return what is said to a person who stops a command while it saves the results of a job that has ended.

    Args:
        job: the job's id.
        url_option: as for `goes_on`.
    """
    return f"stopped; job {job} has ended. To fetch its results:\n\n  fedkeeper fetch {job}{url_option}"


def is_ready(url: str, *, is_found: bool) -> str:
    """Return what `fedkeeper up` says when jobs can be submitted.

    Args:
        url: the broker's address, without a password and good in every folder.
        is_found: whether commands in this folder find it by themselves.
    """
    ready, submit = f"ready: {BrokerUrl.parse(url).address}", "  fedkeeper submit quickstart --wait"
    export = f"  export FEDKEEPER_URL={shlex.quote(url)}"
    if is_found:
        return f"{ready}\n\n{submit}\n\nin another folder, first:\n\n{export}\n"
    return f"{ready}\n\nin another terminal:\n\n{export}\n{submit}\n"
