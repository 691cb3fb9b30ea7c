"""Teaching a text-to-image model the user's classes: one token per class and LoRA on the UNet
(paper, section 3.2).
"""
