"""What the project's own code costs: scheduling passes, policies, the gate, evictions, the control process."""
