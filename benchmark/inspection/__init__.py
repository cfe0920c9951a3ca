"""Dataset inspection for users: ``tissuebench data inspect`` and ``data budgets``."""
