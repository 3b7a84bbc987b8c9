"""The one error a user can act on."""


class UserError(ValueError):
    """Something the user has to change: the message names the place and the way out.

    The command line prints it without a traceback and exits with 2.
    """
