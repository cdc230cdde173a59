"""The kind of processor that trains: machines of one kind round alike, so the same job gives the same bits there."""

import platform

_MACHINES = {"x86_64": "x86-64", "amd64": "x86-64", "arm64": "aarch64"}

_BASELINES = {"x86-64": "SSE", "aarch64": "NEON"}
"""What torch's kernels use where it names no instruction set: what every such processor has."""


def name(device: str = "cpu") -> str:
    """Return the kind of processor of a device: `x86-64 AVX512`, `aarch64 NEON`, `cuda sm_87`.

    torch chooses its kernels by the instruction set, or by the environment variable `ATEN_CPU_CAPABILITY`.

    Args:
        device: torch's name of the device.
    """
    # Imported here because a bridge asks for this and may have no torch.
    import torch

    kind = torch.device(device).type
    if kind == "cuda":
        major, minor = torch.cuda.get_device_capability(device)
        return f"cuda sm_{major}{minor}"
    return of_cpu(platform.machine(), torch.backends.cpu.get_cpu_capability()) if kind == "cpu" else kind


def of_cpu(machine: str, capability: str) -> str:
    """Return the kind of a CPU.

    Args:
        machine: as `platform.machine` names it.
        capability: as `torch.backends.cpu.get_cpu_capability` names it: `AVX2`, `SVE256`, `DEFAULT`, `NO AVX`.
    """
    architecture = _MACHINES.get(machine.lower(), machine)
    is_named = capability not in ("DEFAULT", "NO AVX")
    instructions = capability if is_named else _BASELINES.get(architecture, "")
    return f"{architecture} {instructions}".strip()
