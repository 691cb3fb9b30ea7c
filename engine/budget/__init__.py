"""What a run has cost, and when it has to stop making mixes."""
