"""What a partner organisation runs beside its private data."""
