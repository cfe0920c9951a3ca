"""Version of the protocol that trials follow."""

PROTOCOL_VERSION = 3
"""Incremented when the same inputs would give a different result: results of different versions never share a table."""
