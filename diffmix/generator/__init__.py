"""The generator: a base model, personalized or not, and what makes a mix with it.

`base_model` loads it, `concept` reads and writes what personalization has trained, and
`mixer.Mixer` makes mixes.
"""
