"""Tries a device with small work whose results are known: `python -m client_fn.training.device [DEVICE]`.

`torch.cuda.is_available()` is true also where torch has no kernels for the GPU: then moving a tensor works, and the
first product or comparison fails (https://github.com/pytorch/pytorch/issues/145560).

The command prints one sentence, and exits with 0 if DEVICE works and with 1 if it does not. Without DEVICE, its last
line is `cuda` or `cpu`, the best that works, and the lines before say why.
"""

import multiprocessing
import os
import signal
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from client_fn.errors import BadSettings

if TYPE_CHECKING:
    import torch

VARIABLE: Final = "FEDKEEPER_DEVICE"

BEST_FIRST: Final = ("cuda", "cpu")
"""The devices that the command without arguments tries."""

LIMIT_S: Final = 120.0
"""How long the command tries a device. A board takes 30 s to import torch, and as long to start CUDA. Seconds."""

END_S: Final = 5.0
"""How long the end of a killed process may take: a driver can hold it. Seconds."""

_SIZE: Final = 64
_TEXT_CHARACTERS: Final = 300


def try_device(device: str) -> str:
    """Multiply and compare on a device, check the results, and return a sentence about it.

    A process that has done this with a GPU can't train in forked copies any more.

    Args:
        device: torch's name of the device.

    Raises:
        BadSettings: this machine, or this build of torch, has no such device, or it gives wrong results.
    """
    try:
        import torch

        is_right = _is_right(torch.device(device))
    except (RuntimeError, AssertionError, ImportError, OSError) as exc:
        raise unusable(device, exc) from exc
    if not is_right:
        raise unusable(device, "it gives wrong results")
    return f"device {device} works: {_describe(torch.device(device))}"


def unusable(device: str, why: object) -> BadSettings:
    """Return the error for a device that can't be used, with what to do.

    Args:
        device: torch's name of the device.
        why: what torch says.
    """
    # Of torch's long texts the first line is about the device.
    lines = str(why).strip().splitlines() or [type(why).__name__]
    remedy = "install torch again" if device == "cpu" else "give 'cpu', or install a torch that knows this GPU"
    return BadSettings(VARIABLE, f"{device!r} can't be used here: {lines[0][:_TEXT_CHARACTERS].rstrip('.')}; {remedy}")


def _is_right(device: "torch.device") -> bool:
    """Return whether a product and a comparison on the device have the results that they must have."""
    import torch

    numbers = torch.arange(_SIZE * _SIZE).reshape(_SIZE, _SIZE) % 7
    expected = (numbers[:, None, :] * numbers[None, :, :]).sum(-1)
    # Small integers: every precision that a device multiplies with gives the exact product.
    product = numbers.float().to(device) @ numbers.T.float().to(device)
    is_other = product != (expected + torch.eye(_SIZE)).float().to(device)
    return torch.equal(is_other.cpu(), torch.eye(_SIZE, dtype=torch.bool))


def _describe(device: "torch.device") -> str:
    import torch

    if device.type != "cuda":
        return f"torch {torch.__version__}"
    return f"{torch.cuda.get_device_name(device)}, torch {torch.__version__} for CUDA {torch.version.cuda}"


def main(arguments: Sequence[str]) -> int:
    """Run the command, and return its exit code.

    Args:
        arguments: at most one: the device.
    """
    if len(arguments) > 1:
        _print("usage: python -m client_fn.training.device [DEVICE]")
        return 2
    if arguments:
        return _try_in_a_child(arguments[0])
    for device in BEST_FIRST:
        if _try_in_a_child(device) == 0:
            _print(device)
            return 0
    return 1


def _try_in_a_child(device: str) -> int:
    """Try a device in a child, so that a driver that hangs or crashes ends nothing else; print what was found."""
    sys.stdout.flush()
    child = multiprocessing.get_context("fork").Process(target=_try_and_print, args=(device,), daemon=True)
    child.start()
    child.join(LIMIT_S)
    code = child.exitcode
    if code is None:
        child.kill()
        child.join(END_S)
        _print(unusable(device, f"it did not answer within {LIMIT_S:g} s"))
    elif code < 0:
        _print(unusable(device, f"the process that tried it ended with signal {-code} ({signal.strsignal(-code)})"))
    return 0 if code == 0 else 1


def _print(line: object) -> None:
    sys.stdout.write(f"{line}\n")


def _try_and_print(device: str) -> None:
    try:
        _print(try_device(device))
    except BadSettings as exc:
        _print(exc)
        sys.exit(1)
    finally:
        sys.stdout.flush()


if __name__ == "__main__":
    exit_code = main(sys.argv[1:])
    sys.stdout.flush()
    # Not `sys.exit`, which would wait for a child that a driver holds.
    os._exit(exit_code)
