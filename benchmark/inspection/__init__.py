"""``tissuebench data inspect`` and ``data budgets``: a dataset as people see it."""
