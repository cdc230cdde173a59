"""The pinned versions, on each kind of processor."""

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from tests.support.paths import REPOSITORY


@pytest.mark.parametrize(("processor", "before"), [("aarch64", "2.11"), ("x86_64", "3"), ("arm64", "3")])
def test_there_is_one_torch_and_on_arm64_linux_it_comes_without_cuda(processor: str, before: str) -> None:
    """PyPI's builds for aarch64 need CUDA since 2.11. `arm64` is what macOS says."""
    lines = (REPOSITORY / "requirements.lock").read_text().splitlines()
    pinned = [Requirement(line) for line in lines if line.startswith("torch==")]
    here = [one for one in pinned if one.marker is None or one.marker.evaluate({"platform_machine": processor})]
    (torch,) = here
    (version,) = torch.specifier
    assert Version("2.6") <= Version(version.version) < Version(before)
