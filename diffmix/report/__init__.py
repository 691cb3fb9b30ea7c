"""A finished run for people: contact sheets of mixes, plots, and one HTML page."""
