"""Examination of a machine before a run, or for a bug report: each check says ok, note or fix.

Checks run in child processes with a time limit, so that one that hangs (a dead network drive, a broken driver) or
crashes costs its own lines only.
"""
