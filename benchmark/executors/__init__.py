"""Executors, which decide where tasks run. One small protocol; another executor is one file or an entry point."""
