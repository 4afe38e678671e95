"""Replays agent programs against a server: real requests, real answers in the history, tools that take time."""
