"""The program `fedkeeper`, also as `python -m fedkeeper`."""

import os
import sys
from typing import Final

TRAINING: Final = ("run", "up")
"""Commands that start trainers on this machine."""


def main() -> None:
    """Run the command line. Ctrl-C while it is still being imported ends it with one word, too."""
    try:
        if sys.argv[1:2] and sys.argv[1] in TRAINING and not {"-h", "--help"} & set(sys.argv):
            from client_fn.trainer import fork_server

            # Torch is imported there, which takes seconds, while the command line is imported here.
            fork_server.start_early(os.environ)
        from fedkeeper.cli import main as run
    except KeyboardInterrupt:
        sys.stderr.write("stopped\n")
        sys.exit(130)
    run()


if __name__ == "__main__":
    main()
