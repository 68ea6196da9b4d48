"""`python -m raymodal` is the `raymodal` command."""

from raymodal.cli.main import main

if __name__ == "__main__":
    main()
