"""The two ways a run may end early: by the user's input (exit 2) or by a diverged training (exit 1)."""


class UserError(ValueError):
    """Something the user can mend. One line: the field or file, the bad value, what is allowed, the remedy."""


class NonFiniteError(RuntimeError):
    """A loss term or gradient stopped being finite; names the term and the global step."""


def first_line(error: BaseException) -> str:
    """What an error of a library says first, for a message of one line."""
    return next(iter(str(error).splitlines()), type(error).__name__)
