"""Triton: print, import back, compile, run."""
