"""How long a sweep takes and how much disk it needs, before it runs."""
