"""What a finished run looks like to a person: pictures, plots and one HTML page."""
