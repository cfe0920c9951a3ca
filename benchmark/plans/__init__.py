"""The plans that ship with the suite, one YAML file each."""
