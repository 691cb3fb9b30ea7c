"""The classifier: a timm model, its transforms, what it is fed, its loss, its metrics and its
folder.
"""
