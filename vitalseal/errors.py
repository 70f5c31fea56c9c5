"""What a person at the command line can mend."""


class UserError(Exception):
    """A mistake in a call, a file or the machine's state; the message is one line: what, where, what to do."""
