"""The command line: one module per command group.

Heavy imports (settings, Rich, the gateway) happen inside the commands, so that ``--help`` and
``version`` answer at once.
"""
