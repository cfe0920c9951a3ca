"""Download of published datasets: HTTP, checksums, archives."""
