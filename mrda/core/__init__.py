"""General tools for all other packages; nothing in here is about super-resolution."""
