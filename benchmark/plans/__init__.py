"""Plans: schema, expansion into trials, trial identity, compute settings, and the built-in plans as YAML files."""
