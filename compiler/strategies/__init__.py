"""Strategies: ways to turn a group of definitions into TileIR, each with a space of schedules."""
