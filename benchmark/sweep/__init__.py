"""The sweep: a graph of nodes, the processes that run them, and what is known of their state."""
