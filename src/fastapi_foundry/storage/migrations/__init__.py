"""The steps that bring the tables of an older version to those of this one (Alembic).

A step is a module in ``versions``, named by its number; ``HEAD`` is the number of the last one. A new step changes
``tables.py`` and ``HEAD`` as well; tests see to it that all three agree. A step changes the tables in the one transaction
that it is run in: no ``COMMIT``, no ``PRAGMA``, no statement that PostgreSQL refuses within a transaction.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Final

__all__ = ["DIRECTORY", "HEAD", "VERSION_TABLE", "quiet_alembic"]

HEAD: Final = "0002"
VERSION_TABLE: Final = "foundry_schema"
"""Not Alembic's usual name, since a PostgreSQL database may be shared with another program that uses Alembic."""
DIRECTORY: Final = Path(__file__).parent


def quiet_alembic() -> None:
    """Keep what Alembic tells of its own doings out of the log; called before it is imported."""
    logging.getLogger("alembic").setLevel(logging.WARNING)
