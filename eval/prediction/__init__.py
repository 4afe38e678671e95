"""How well pauses are predicted, and what that is worth: `python -m eval.prediction`."""
