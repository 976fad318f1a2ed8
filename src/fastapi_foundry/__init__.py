"""FastAPI Foundry: a dependable gateway in front of Microsoft Foundry Local."""

__version__ = "0.1.0"

__all__ = ["__version__"]
