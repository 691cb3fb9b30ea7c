"""The user's images on the cluster."""
