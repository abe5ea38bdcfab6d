"""What users and schedulers see of an end: one line, or a code that says to go on."""

RESUMABLE = 75  # exit code (EX_TEMPFAIL): saved, and the same command goes on


class UserError(ValueError):
    """Bad input. The message is one line: what is wrong, where, and how to mend it.

    The command line prints it and exits with code 2; nothing has been written by then.
    """


class DiskError(UserError):
    """A disk that is full or refuses. Of several processes one may meet it alone."""
