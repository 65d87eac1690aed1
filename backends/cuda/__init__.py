"""CUDA C++: what a text may contain, and reading it back into TileIR without a toolkit."""
