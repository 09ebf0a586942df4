"""`python -m qwen35cli`, the same as the command `qwen35`."""

from qwen35cli.cli import main

if __name__ == "__main__":
    main()
