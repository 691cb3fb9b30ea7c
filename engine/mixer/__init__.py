"""The actor that holds a mixer: how it starts, makes chunks, and what it does where that fails."""
