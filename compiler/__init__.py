"""From AST to OpIR to TileIR to packages."""
