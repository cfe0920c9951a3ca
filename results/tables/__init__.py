"""Rows of every table: leaderboard, pairs, ranks, label efficiency, compute cost."""
