"""This machine: devices, processes, GPUs, environment."""
