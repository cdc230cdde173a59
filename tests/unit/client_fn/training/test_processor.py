"""A processor's kind is named by its architecture, its maker and the instruction set that torch's kernels use."""

import os
import subprocess
import sys

import pytest

from client_fn.training import processor

INTEL = "processor\t: 0\nvendor_id\t: GenuineIntel\nmodel name\t: Xeon\n\nprocessor\t: 1\nvendor_id\t: GenuineIntel\n"
AMD = "vendor_id\t: AuthenticAMD\n"
ZHAOXIN = "vendor_id\t:   Shanghai  \n"
ARM = "processor\t: 0\nBogoMIPS\t: 108.00\nCPU implementer\t: 0x41\n"


@pytest.mark.parametrize(
    ("machine", "capability", "info", "name"),
    [
        ("x86_64", "AVX512", INTEL, "x86-64 Intel AVX512"),
        ("x86_64", "AVX2", AMD, "x86-64 AMD AVX2"),
        ("x86_64", "AVX2", ZHAOXIN, "x86-64 Shanghai AVX2"),
        ("AMD64", "AVX2", "", "x86-64 AVX2"),
        ("x86_64", "NO AVX", INTEL, "x86-64 Intel SSE"),
        ("x86_64", "DEFAULT", INTEL, "x86-64 Intel SSE"),
        ("aarch64", "DEFAULT", ARM, "aarch64 NEON"),
        ("arm64", "NO AVX", "", "aarch64 NEON"),
        ("aarch64", "SVE256", ARM, "aarch64 SVE256"),
        ("aarch64", "DEFAULT", INTEL, "aarch64 NEON"),  # emulated on such a machine
        ("ppc64le", "VSX", "", "ppc64le VSX"),
        ("riscv64", "DEFAULT", "", "riscv64"),
    ],
)
def test_architecture_maker_and_instruction_set(machine: str, capability: str, info: str, name: str) -> None:
    assert processor.of_cpu(machine, capability, info) == name


def test_importing_the_module_does_not_import_torch() -> None:
    code = "import sys; from client_fn.training import processor; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.torch
def test_what_torch_is_told_to_use_counts() -> None:
    code = "from client_fn.training import processor; print(processor.name())"
    default, *_ = processor.name().rpartition(" ")
    environment = os.environ | {"ATEN_CPU_CAPABILITY": "default"}
    said = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert said.stdout.strip() in {f"{default} SSE", f"{default} NEON"}


@pytest.mark.torch
def test_another_device_is_named_by_its_kind() -> None:
    assert processor.name("meta") == "meta"
