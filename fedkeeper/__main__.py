"""The program `fedkeeper`, also as `python -m fedkeeper`."""

import sys


def main() -> None:
    """Run the command line. Ctrl-C while it is still being imported ends it with one word, too."""
    try:
        from fedkeeper.cli import main as run
    except KeyboardInterrupt:
        sys.stderr.write("stopped\n")
        sys.exit(130)
    run()


if __name__ == "__main__":
    main()
