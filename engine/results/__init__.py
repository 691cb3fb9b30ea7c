"""What comes of a run: its figures, summary and report, its evaluation, and exports."""
