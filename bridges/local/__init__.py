"""The `local` platform: worker processes on this machine.

It has no `functions.py`, because a worker serves every client, and no `api.py`, because `pool.py` starts the
workers and `worker.py` follows one.
"""

from bridges.local.platform import LocalPlatform, opened
from bridges.local.settings import Settings

__all__ = ["LocalPlatform", "Settings", "opened"]
