"""The command `hpt-dist`, which is also `python -m hpt_dist`."""

import sys


def main() -> None:
    """Run the command line, whose imports take a moment in which people may press Ctrl-C."""
    try:
        from hpt_dist.cli.main import main as command
    except KeyboardInterrupt:
        sys.exit("interrupted")
    command()


if __name__ == "__main__":
    main()
