"""`python -m service` is the same as the `fcs` command."""

from service.cli.app import main

if __name__ == "__main__":
    main()
