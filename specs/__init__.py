"""The operator library: specs shipped as package data."""
