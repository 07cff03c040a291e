"""What can be wrong with a bank."""

from pipeline.errors import UserError


class BankError(UserError):
    """A bank that is missing, unfinished, damaged or of another kind than what was asked for."""
