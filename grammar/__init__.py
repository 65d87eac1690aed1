"""Front end: grammar, parser, AST with spans, formatter and diagnostics."""
