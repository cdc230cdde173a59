"""The kinds of processor that have trained are named, and what that means for another run of the job."""

import pytest

from fedkeeper.display import processors

AVX512 = "x86-64 Intel AVX512"
NEON = "aarch64 NEON"


@pytest.mark.parametrize(
    ("numbers", "text"),
    [
        ({}, ""),
        ({"": 8}, ""),
        ({AVX512: 8}, AVX512),
        ({AVX512: 6, NEON: 2}, f"{NEON} (2 updates), {AVX512} (6)"),
        ({AVX512: 6, NEON: 1}, f"{NEON} (1 update), {AVX512} (6)"),
        ({AVX512: 6, "": 2}, f"not told (2 updates), {AVX512} (6)"),
    ],
)
def test_the_kinds_are_named_with_their_updates(numbers: dict[str, int], text: str) -> None:
    assert processors.describe(numbers) == text


@pytest.mark.parametrize(
    ("numbers", "words"),
    [
        ({AVX512: 8}, "gives this digest on such processors"),
        ({AVX512: 6, NEON: 2}, "only if each client's kind stays the same"),
        ({AVX512: 6, "": 2}, "only if each client's kind stays the same"),
        ({"cuda sm_87": 8}, "may give others"),
        ({"cuda sm_87": 2, AVX512: 6}, "may give others"),
        ({"mps": 2}, "may give others"),
    ],
)
def test_it_is_said_when_another_run_gives_the_same_digest(numbers: dict[str, int], words: str) -> None:
    said = processors.what_follows(numbers)
    assert words in said
    assert len(f"note: {said}") <= 80
