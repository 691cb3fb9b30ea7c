"""The one exception that a user is meant to read."""


class UserError(Exception):
    """Something the user can mend. Its text is one sentence: what is wrong, where, and what to do about it.

    The command line prints the sentence without a traceback and exits with code 2.
    """
