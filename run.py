"""Set up what is missing, then start: ``python3 run.py [test | check | any command of the CLI]``.

This file runs on every Python that people may have, to say which one is needed; all else is in tools/run.
"""

# ruff: noqa: ANN201, PLC0415, PTH100, PTH118, PTH120, UP032 - annotations, f-strings and the rest would not parse on an old Python

import os
import sys

NEEDED = (3, 11)


def main():
    """Hand over to tools/run on a Python that can run it."""
    if sys.version_info < NEEDED:
        found = ".".join(str(part) for part in sys.version_info[:3])
        sys.stderr.write(
            "Python 3.11 or newer is needed, this is {} ({}).\n"
            "Install a newer one and start with it, for example: python3.12 run.py\n".format(found, sys.executable)
        )
        return 1
    root = os.path.dirname(os.path.abspath(__file__))
    sys.path[0] = os.path.join(root, "tools", "run")
    from launcher import launch

    return launch(root, sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
