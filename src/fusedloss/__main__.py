"""The command line: ``python -m fusedloss`` and ``python -m fusedloss demo``."""

from __future__ import annotations

import argparse
import sys

import fusedloss as fl
from fusedloss import demo


def main(argv: list[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m fusedloss",
        description="Without a command: print which backend, instructions and threads are in use.",
    )
    parser.add_argument("--version", action="version", version=f"fusedloss {fl.__version__}")
    commands = parser.add_subparsers(dest="command", metavar="command")
    demo.add_arguments(
        commands.add_parser(
            "demo",
            help="fit three models on Fisher's iris measurements",
            description="Fit three models on Fisher's iris measurements, "
            "check that the backends agree, and time one call on each.",
        )
    )
    arguments = parser.parse_args(argv)
    if arguments.command == "demo":
        return demo.run(arguments)
    fl.show_config()
    return 0


if __name__ == "__main__":
    sys.exit(main())
