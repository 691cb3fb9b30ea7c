"""Nodes that come and go: what is waited for, what is asked for ahead, and what they see."""
