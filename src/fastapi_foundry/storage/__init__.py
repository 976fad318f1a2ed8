"""The one database of the product: SQLite in the home directory, or PostgreSQL by its address.

SQLAlchemy (0.13 s and 12 MB) comes with ``database`` and ``tables``; whoever only wants the settings' view of the
database imports ``address``.
"""
