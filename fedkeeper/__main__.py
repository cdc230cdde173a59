"""Makes `python -m fedkeeper` the same as `fedkeeper`."""

from fedkeeper.cli import main

if __name__ == "__main__":
    main()
