"""The import root: public names, loaded on first use so that the command line starts quickly."""

__version__ = "0.1.0"
