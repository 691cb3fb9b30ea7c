"""The classifier: a timm model, its transforms, training samples, losses, metrics and folder."""
