"""The program `catmerge`, from the module."""

import signal
import sys


def main(arguments=None):
    """Run the program with these arguments, by default the process's; return its exit status."""
    from . import _core

    # The program ends on Ctrl-C as it does without Python.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    words = sys.argv[1:] if arguments is None else list(arguments)
    return _core.main(["catmerge", *words])


if __name__ == "__main__":
    sys.exit(main())
