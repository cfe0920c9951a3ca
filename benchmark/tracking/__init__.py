"""Publication to Weights & Biases: runs, tables, overlays, the report."""
