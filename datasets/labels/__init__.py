"""Budgets of labels: specification, draw, purchase, and the view that withholds the rest."""
