"""Every command in every document: our programs know it and its files are there; a table says why others do not run."""

import importlib.util
import itertools
import re
from pathlib import Path
from typing import Any, Final

import pytest
import typer

from fedkeeper import cli, configs
from tests.support import documents
from tests.support.paths import REPOSITORY

NOT_RUN: Final = {
    "add-apt-repository": "changes the machine",
    "apt-get": "changes the machine",
    "cat": "reads what the reader types",
    "cd": "moves between folders of the reader's machine",
    "cp": "copies files; tests/e2e/test_deploy_openfaas.py has them in the same places",
    "curl": "asks a program on the reader's machine",
    "docker": "needs docker, and changes the machine",
    "echo": "prints; the one that writes passwords is run by tests/e2e/test_deploy_openfaas.py",
    "exit": "ends the shell",
    "export": "sets a variable, which tests/e2e/test_deploy_openfaas.py uses",
    "git": "needs the network",
    "./hack/install.sh": "is faasd's",
    "head": "run by tests/e2e/test_tutorial.py",
    "install": "installs files on the reader's machine",
    "journalctl": "reads the log of a service that is not here",
    "loginctl": "changes the machine",
    "ls": "run by tests/e2e/test_tutorial.py",
    "mkdir": "makes a folder on the reader's machine",
    "mosquitto_pub": "run by tests/contract/test_documented_mosquitto.py",
    "mosquitto_sub": "run by tests/contract/test_documented_mosquitto.py",
    "nats": "NATS' own program, which is no dependency",
    "openssl": "run by tests/e2e/test_deploy_openfaas.py",
    "pip": "installs; scripts/wheel-test builds the wheel and installs it with its extras",
    "printf": "writes a drop-in; tests/integration/test_server_kit.py lets systemd read it",
    "scp": "copies to another machine",
    "sed": "edits files of the reader's machine; tests/integration/test_server_kit.py runs those for files of ours",
    "source": "activates the environment that tests run in",
    "ssh": "logs in to another machine",
    "systemctl": "changes the machine",
    "systemd-run": "changes the machine",
    "tar": "copies a store that is not here",
    "tee": "writes what printf prints",
    "umask": "sets a permission of the shell",
}
"""Programs that this test does not run, and why. A program that is not here has to be one of ours."""

READERS_OWN: Final = {
    "cells.toml": "docs/jetson.md shows it below the commands",
    "boards.csv": "configs/edge/boards.csv is one",
    "bridge.toml": "a bridge's file; configs/bridges has one for each platform",
    "fabric.toml": "a deployment file",
    "flowers.csv": "data; the tutorial makes it",
    "houses.csv": "data",
    "job.json": "a job file, in JSON",
    "job.toml": "a job file; fedkeeper new writes one",
    "mine.py": "code",
    "mine.toml": "a job file",
    "patients.csv": "data",
    "relay.toml": "a relay's file; configs/bridges/relay.toml is one",
}
"""Files that a document's text asks of the reader, without showing them, or shows with a name in its text."""

PYTHONS: Final = ("python", "python3", "python3.10")

SCRIPTS: Final = ("edge/install.sh", "edge/containers/install.sh")

_FILE: Final = re.compile(r"[\w./-]+\.(?:toml|csv|py|json|npz|parquet)")


def commands(document: str, *programs: str) -> list[list[str]]:
    """The commands of a document's shell blocks, or only those of some programs."""
    found = [words for block in documents.blocks(document, "sh") for words in documents.commands(block.text)]
    return [words for words in found if not programs or words[0] in programs]


def all_of(*programs: str) -> list[list[str]]:
    return [words for document in documents.DOCUMENTS for words in commands(document, *programs)]


def context_of(words: list[str]) -> Any:
    """Parse a `fedkeeper` command as the program does, without running it.

    Raises:
        UsageError: an option or argument is missing, unknown, or has a wrong value.
    """
    command: Any = typer.main.get_command(cli.app)
    name, rest, context = words[0], words[1:], None
    while True:
        context = command.make_context(name, list(rest), parent=context)
        rest = [*getattr(context, "_protected_args", []), *context.args]
        if not hasattr(command, "resolve_command") or not rest:
            return context
        name, command, rest = command.resolve_command(context, rest)


@pytest.mark.parametrize("words", all_of("fedkeeper"), ids=" ".join)
def test_fedkeeper_takes_the_command(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)
    assert context_of(words) is not None


@pytest.mark.parametrize(
    "wrong", [["fedkeeper", "submit", "--waitt"], ["fedkeeper", "sumbit"], ["fedkeeper", "up", "--port", "x"]]
)
def test_a_wrong_command_would_be_found(wrong: list[str]) -> None:
    with pytest.raises(Exception, match=r"[Nn]o such|not a valid|valid integer"):
        context_of(wrong)


@pytest.mark.parametrize("document", documents.DOCUMENTS)
def test_the_files_of_commands_are_there_or_made_by_the_document(document: str) -> None:
    text = (REPOSITORY / document).read_text()
    shown = set(re.findall(r"`([\w-]+\.\w+)`(?:, on your computer)?(?:, with [^:\n]*)?:\n", text))
    written = set(re.findall(r"(?:> |cp )([\w.-]+\.\w+)", text))
    for words in commands(document, "fedkeeper"):
        for file in (word for word in words[1:] if _FILE.fullmatch(word) and not word.startswith("/")):
            known = {*shown, *written, *READERS_OWN}
            assert (REPOSITORY / file).is_file() or file in known, f"{' '.join(words)}: which file is {file}?"


@pytest.mark.parametrize("words", all_of("fedkeeper"), ids=" ".join)
def test_the_settings_of_a_job_of_ours_are_valid(words: list[str]) -> None:
    if words[1] in {"run", "submit"} and words[2] in {"quickstart", "mnist-nn", "mnist-cnn"}:
        sets = tuple(after for word, after in itertools.pairwise(words) if word == "--set")
        assert configs.read_job(words[2], sets) is not None


@pytest.mark.parametrize("words", all_of("make"), ids=" ".join)
def test_make_has_the_target_and_the_variables(words: list[str]) -> None:
    makefile = (REPOSITORY / "Makefile").read_text()
    for word in words[1:]:
        name, equals, _ = word.partition("=")
        assert re.search(rf"\$\({name}\)" if equals else rf"^{name}:.*## ", makefile, re.MULTILINE), word


@pytest.mark.parametrize("words", all_of(*PYTHONS), ids=" ".join)
def test_python_s_modules_are_there(words: list[str]) -> None:
    if "-m" in words:
        assert importlib.util.find_spec(words[words.index("-m") + 1]) is not None
    else:
        assert words[1] in {"-c", "use.py"}, "tests/e2e/test_tutorial.py runs these"


@pytest.mark.parametrize("words", all_of("pytest"), ids=" ".join)
def test_pytest_s_files_are_there(words: list[str]) -> None:
    for word in words:
        assert not word.startswith("tests") or (REPOSITORY / word).exists(), word


@pytest.mark.parametrize("words", all_of(*SCRIPTS), ids=" ".join)
def test_the_scripts_have_these_options(words: list[str]) -> None:
    usage = (REPOSITORY / "configs" / words[0]).read_text().partition('usage="')[2].partition('"')[0]
    assert {word for word in words if word.startswith("--")} <= set(re.findall(r"--[a-z-]+", usage))


def test_every_program_is_ours_or_has_a_reason() -> None:
    ours = {"fedkeeper", "make", *PYTHONS, "pytest", *SCRIPTS}
    used = {Path(words[0]).name if words[0].startswith("/opt/") else words[0] for words in all_of()}
    assert used - ours <= NOT_RUN.keys(), "a program without a test and without a reason"
    assert NOT_RUN.keys() <= used - ours, "a reason for a program that no document uses"


@pytest.mark.parametrize("document", documents.DOCUMENTS)
def test_no_command_hides_in_a_block_of_another_kind(document: str) -> None:
    for block in documents.blocks(document):
        if block.language != "sh":
            first = {line.split(" ")[0] for line in block.text.splitlines()}
            assert not first & {"fedkeeper", "make", "sudo", "pip", "mosquitto_pub"}, f"line {block.line}"
