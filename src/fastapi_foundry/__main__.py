"""``python -m fastapi_foundry`` is the command line."""

from __future__ import annotations

from fastapi_foundry.cli.main import main

if __name__ == "__main__":
    main()
