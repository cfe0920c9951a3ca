"""Estimates of a sweep's duration and disk usage before it runs."""
