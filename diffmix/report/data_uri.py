"""Files inside of a page."""

from __future__ import annotations

import base64


def data_uri(kind: str, data: bytes) -> str:
    """A file of MIME type `kind` as a URI that a page can embed."""
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"
