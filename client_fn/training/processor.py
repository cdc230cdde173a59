"""The kind of processor that trains. Another kind rounds otherwise, so the last bits of a trained weight differ.

torch's kernels depend on the instruction set, and the matrix products of MKL also on the maker: emulated Haswell and
EPYC processors, both with AVX2, differ.
"""

import functools
import platform
from pathlib import Path

_CPU_INFO = Path("/proc/cpuinfo")

_MACHINES = {"x86_64": "x86-64", "amd64": "x86-64", "arm64": "aarch64"}

_MAKERS = {"GenuineIntel": "Intel", "AuthenticAMD": "AMD"}

_BASELINES = {"x86-64": "SSE", "aarch64": "NEON"}
"""What torch's kernels use where it names no instruction set: what every such processor has."""


@functools.cache
def name(device: str = "cpu") -> str:
    """Return the kind of processor of a device: `x86-64 Intel AVX512`, `aarch64 NEON`, `cuda sm_87`.

    The instruction set is what torch's kernels use; the environment variable `ATEN_CPU_CAPABILITY` may choose another.

    Args:
        device: torch's name of the device.
    """
    # Imported here because a bridge asks for this and may have no torch.
    import torch

    kind = torch.device(device).type
    if kind == "cuda":
        major, minor = torch.cuda.get_device_capability(device)
        return f"cuda sm_{major}{minor}"
    if kind != "cpu":
        return kind
    return of_cpu(platform.machine(), torch.backends.cpu.get_cpu_capability(), _cpu_info())


def of_cpu(machine: str, capability: str, info: str = "") -> str:
    """Return the kind of a CPU.

    Args:
        machine: as `platform.machine` names it.
        capability: as `torch.backends.cpu.get_cpu_capability` names it: `AVX2`, `SVE256`, `DEFAULT`, `NO AVX`.
        info: what Linux says of the CPU in /proc/cpuinfo; empty: nothing.
    """
    architecture = _MACHINES.get(machine.lower(), machine)
    is_named = capability not in ("DEFAULT", "NO AVX")
    instructions = capability if is_named else _BASELINES.get(architecture, "")
    # Of an emulated processor Linux tells the real one's maker.
    maker = _maker(info) if architecture == "x86-64" else ""
    return " ".join(filter(None, (architecture, maker, instructions)))


def _cpu_info() -> str:
    try:
        return _CPU_INFO.read_text(errors="replace")
    except OSError:
        return ""  # another system, or a container that hides it


def _maker(info: str) -> str:
    """Return who has made an x86-64 processor; empty if it is not known."""
    for line in info.splitlines():
        field, _, value = line.partition(":")
        if field.strip() == "vendor_id":
            return _MAKERS.get(value.strip(), value.strip())
    return ""
