"""From the records of runs to figures, tables and plots."""
