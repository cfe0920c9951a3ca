"""Published datasets: download, checksums, archives."""
