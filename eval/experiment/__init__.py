"""Experiments as data: what to run, the runs, and what they say. ``command`` is where a shell comes in."""
