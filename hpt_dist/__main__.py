"""`python -m hpt_dist` is the command `hpt-dist`."""

from hpt_dist.cli.main import main

if __name__ == "__main__":
    main()
