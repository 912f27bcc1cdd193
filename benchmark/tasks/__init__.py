"""Tasks: data cards, the split law with its locks, and one module per data source."""
