"""The one error that a user can cause: what is wrong, where, and what to do, in one line."""


class UserError(Exception):
    """Something the user can mend; the command line prints it as one line and exits with code 2.

    Args:
        what: what is wrong, with the value that was found.
        where: the file, record, recipe key or option it was found in.
        remedy: what to do about it.
    """

    def __init__(self, what: str, where: str, remedy: str) -> None:
        self.what, self.where, self.remedy = what, where, remedy
        super().__init__(f"{where}: {what}; {remedy}")

    def __str__(self) -> str:
        return " ".join(f"{self.where}: {self.what}; {self.remedy}".split())


def missing_extra(package: str, extra: str, purpose: str) -> UserError:
    """The error for an optional package that is not installed."""
    return UserError(
        f"the package {package!r} is not installed",
        purpose,
        f"install it with: pip install 'topoface[{extra}]'",
    )


def require(holds: bool, where: str, value: object, remedy: str) -> None:
    """Refuse a value that has the right type and makes no sense.

    Raises:
        UserError: ``holds`` is false.
    """
    if not holds:
        raise UserError(f"is {value}", where, remedy)
