"""The sweep: a graph of tasks, the processes that run them, and the record of their state."""
