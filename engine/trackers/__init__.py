"""Listeners that hand a run's figures to the trackers that people have."""
