"""The one exception that a user is meant to read."""

import re


class UserError(Exception):
    """Something the user can mend. Its text is one sentence: what is wrong, where, and what to do
    about it.

    The command line prints the sentence without a traceback and exits with code 2.
    """


def reason(error: BaseException) -> str:
    """The error's own words on one line, without its full stop; of Arrow's long ones, the system's
    part. Its type where it says nothing.
    """
    text = (getattr(error, "strerror", None) or str(error)).strip()
    return (
        re.sub(r".*Detail: \[errno \d+\] ", "", text.splitlines()[0]).rstrip(".:")
        if text
        else type(error).__name__
    )
