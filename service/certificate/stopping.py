"""When sampling may stop: the checkpoints of a plan, fixed before any seed is drawn."""

# Looks in each doubling of the samples, and the first one.
_PER_DOUBLING = 8
_FIRST = 48


def checkpoints(ceiling: int) -> tuple[int, ...]:
    """Rising numbers of estimation samples, a function of the ceiling alone; the last is it."""
    found, at = [], _FIRST
    while at < ceiling:
        found.append(at)
        at += max(1, (1 << (at.bit_length() - 1)) // _PER_DOUBLING)
    return (*found, ceiling)
