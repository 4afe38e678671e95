"""The control process: one order for what all sources say, and the state that it comes to."""
