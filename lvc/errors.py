"""The one exception that a user is meant to see."""


class UserError(Exception):
    """Something the user can put right: the message says what is wrong, where, and what to do.

    Command lines print the message alone and exit with status 2; every other exception is a bug.
    """


def printable(text: object) -> str:
    """What of a stranger's text may reach a terminal."""
    return "".join(c for c in str(text) if c.isprintable())
