"""The two levels of IR (OpIR, TileIR), their semantics, text forms and interpreters."""
