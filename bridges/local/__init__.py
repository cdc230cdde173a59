"""The `local` platform: `opened(settings, vault, broker)` is a `bridges.platform.ManagedPlatform`.

It has no `functions.py`, since its workers serve every client, and no `api.py`: `pool.py` starts them itself.
"""

from bridges.local.platform import LocalPlatform, opened
from bridges.local.settings import Settings

__all__ = ["LocalPlatform", "Settings", "opened"]
