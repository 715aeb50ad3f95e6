"""Raters by group, as the command line names them."""

from collections.abc import Sequence

from e2ed2.system.errors import UserError

RATERS, ONLY_GROUP = 10, "rater"  # the paper's number


def raters_by_group(asked: Sequence[str], num_raters: int | None) -> dict[str, int]:
    """How many raters each group has, from `["artist=3", "layperson=7"]`.

    Args:
        num_raters: of all; None for the sum, or `RATERS` where no group is named.
    Raises:
        UserError: a group that is no NAME=COUNT, or given twice; another number than their sum.
    """
    groups: dict[str, int] = {}
    for part in asked:
        name, _, count = part.rpartition("=")
        if not name.strip() or not count.isdecimal() or int(count) < 1 or name in groups:
            raise UserError(f"--group {part}: give NAME=COUNT, each name once, as artist=3")
        groups[name] = int(count)
    if groups and num_raters not in (None, sum(groups.values())):
        raise UserError(f"--num-raters {num_raters}: the groups have {sum(groups.values())}; leave one of them out")
    return groups or {ONLY_GROUP: RATERS if num_raters is None else num_raters}
