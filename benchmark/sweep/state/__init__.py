"""State of a sweep in files below ``runs/``: records, leases, journals, failures."""
