"""What a person or `ray job submit` starts: thin entrypoints over `engine`, and the recipes."""
