"""The files below ``runs/`` that say what is true: records, leases, journals, failures."""
