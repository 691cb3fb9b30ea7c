"""Diff-Mix (CVPR 2024, arXiv 2403.19600): personalize a diffusion model, translate images between
classes, train on both.

This layer is the method alone: it never imports Ray. Heavy libraries are imported by the modules
that need them.
"""

__version__ = "0.1.0"
