"""`UserError`, the one exception whose text is meant for users."""

import re


class UserError(Exception):
    """A mistake that the user can correct.

    Its text is one sentence: what is wrong, where, and what to do. The command line prints that
    sentence without a traceback and exits with code 2.
    """


def reason(error: BaseException) -> str:
    """The error's first line without its full stop; the error's type if it has no text.

    Only the operating system's part of Arrow's long errors is kept.
    """
    text = (getattr(error, "strerror", None) or str(error)).strip()
    if not text:
        return type(error).__name__
    return re.sub(r".*Detail: \[errno \d+\] ", "", text.splitlines()[0]).rstrip(".:")
