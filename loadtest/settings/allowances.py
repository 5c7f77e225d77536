"""How many requests of a run may fail."""

from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from fractions import Fraction

from loadtest.errors import SettingsError

_FIX = "give a number of requests, as in --max-failures 5, or a share of them, as in --max-failures 1.5%"


@dataclass(frozen=True, slots=True)
class Allowance:
    """How many requests may fail.

    Attributes:
        count: So many; None if it is a share.
        share: This share of all requests, 0 to 1; None if it is a number of requests.
    """

    count: int | None = 0
    share: Fraction | None = None

    def allows(self, failed: int, requests: int) -> bool:
        """Return whether so many of the requests may fail. 1.5 % allows 3 of 200: 0.015 * 200 = 3."""
        most = self.count if self.share is None else self.share * requests
        return failed <= (most or 0)

    def __str__(self) -> str:
        return f"{self.count}" if self.share is None else f"{float(self.share * 100):g} %"


def read_allowance(text: str) -> Allowance:
    """Read a number of requests, `5`, or a share of them, `1.5%`.

    Raises:
        SettingsError: It is neither.
    """
    number = text.strip()
    if number.isascii() and number.isdigit():
        return Allowance(int(number))
    try:
        percent = Decimal(number.removesuffix("%"))
        is_share = number.endswith("%") and 0 <= percent <= 100
    except InvalidOperation:  # comparing NaN raises it as well
        is_share = False
    if not is_share:
        what = f"{text!r} is neither a whole number from 0 up nor a share from 0% to 100%"
        raise SettingsError("--max-failures", what, _FIX)
    return Allowance(None, Fraction(percent) / 100)
