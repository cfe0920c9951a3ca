"""Label budgets: specification, draw, purchase, and the label view that withholds everything else."""
