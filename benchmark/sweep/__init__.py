"""The sweep: a graph of tasks, the processes that run them, and what is known of their state."""
