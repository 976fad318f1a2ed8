"""The Foundry service and its runners; started as processes, imported by nobody but the CLI.

``python -m fastapi_foundry.daemon`` is the service, ``python -m fastapi_foundry.daemon.runner`` one runner.
"""
