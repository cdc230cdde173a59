"""The requirements of the user's code, compared with what is installed."""

import pytest

from client_fn.code import requirements
from client_fn.errors import BadCode

INSTALLED = {"scikit-image": "0.22", "Torch": "2.13.0+cpu", "zope.interface": "7.0rc1", "odd": "unknown"}


@pytest.mark.parametrize(
    "line",
    [
        "",
        "# a comment",
        "scikit-image",
        "Scikit_Image>=0.20  # a comment",
        "torch==2.13.0",
        "torch>=2.6,<3",
        "zope-interface>=7.0rc1",
        "torch[opt]>=2",
        "absent; python_version < '3'",
        "absent>=1 ; sys_platform == 'win32'",
        "torch @ https://example.org/torch.whl#sha256=00",
        "torch>=2 \\\n  --hash=sha256:00 --hash=sha256:11",
        "-r other.txt",
        "--index-url https://example.org",
        "odd",
    ],
)
def test_nothing_is_missing(line: str) -> None:
    assert requirements.missing(line, INSTALLED) == []


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("scikit-image>=0.24", "scikit-image>=0.24 (0.22 is installed)"),
        ("absent", "absent (not installed)"),
        ("absent>=1; python_version >= '3.11'", "absent>=1 (not installed)"),
        ("absent @ https://example.org/absent.whl", "absent (not installed)"),
        ("odd>=1", "odd>=1 (unknown is installed)"),
        ("torch[opt]!=2.13.0", "torch!=2.13.0 (2.13.0+cpu is installed)"),
    ],
)
def test_what_is_missing_is_a_sentence(line: str, sentence: str) -> None:
    assert requirements.missing(f"numpy>=0 ; python_version < '3'\n{line}\n", INSTALLED) == [sentence]


def test_markers_apply_to_the_python_that_trains() -> None:
    line = "tomli; python_version < '3.11'"
    assert requirements.missing(line, {}, python="3.10.14") == ["tomli (not installed)"]
    assert requirements.missing(line, {}, python="3.13.0") == []


def test_a_function_s_archive_gets_the_lines_that_mean_something() -> None:
    text = "# for my model\nscikit-image>=0.24  # resizing\r\n\n--extra-index-url https://example.org\ntimm==1.0"
    expected = "scikit-image>=0.24\n--extra-index-url https://example.org\ntimm==1.0\n"
    assert requirements.for_archive(text) == expected
    assert requirements.for_archive("") == ""


@pytest.mark.parametrize("line", ["-r other.txt", "-c limits.txt", "-e .", "--requirement=other.txt", "./local"])
def test_a_function_s_archive_refers_to_no_other_file(line: str) -> None:
    with pytest.raises(BadCode, match="write") as bad:
        requirements.for_archive(f"numpy\n{line}\n")
    assert repr(line) in str(bad.value)


@pytest.mark.parametrize("line", ["torch>>2", "./local", "https://example.org/a.whl", "two words", "torch; python"])
def test_a_malformed_line_is_refused(line: str) -> None:
    with pytest.raises(BadCode) as bad:
        requirements.missing(f"numpy\n{line}\n", {"numpy": "2"})
    assert repr(line) in str(bad.value)
    assert "write NAME>=VERSION, or NAME @ URL" in str(bad.value)
