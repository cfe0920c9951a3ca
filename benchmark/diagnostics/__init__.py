"""Snapshots of a stage while it trains: pictures, a linear probe, the quality of pseudo-masks."""
