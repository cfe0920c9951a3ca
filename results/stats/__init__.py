"""Influence of patients, the variance model, intervals and p values, tests of ranks."""
