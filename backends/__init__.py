"""Printers, builders and runners per target."""
