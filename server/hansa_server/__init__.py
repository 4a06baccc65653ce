"""The coordinator: rounds, aggregation, results. It never sees data, only released updates and counts."""
