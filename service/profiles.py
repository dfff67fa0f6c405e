"""Profiles: what the sampling of a request becomes where the request is silent, by one name.

`balanced` is the operator's own defaults; the others are fixed, within the operator's limits. What
each costs: docs/psm.md.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from service.config import Settings
from service.types import Target

BALANCED = "balanced"


@dataclass(frozen=True, slots=True)
class Profile:
    """Sampling of a request that names nothing else.

    Attributes:
        selection: n0, whose mean is the embedding; its noise is what the last digits are worth.
        estimation: n, the ceiling of the samples that certify it.
        target_shift: radius/sigma of the target; None spends all `estimation` samples.
        target_bound: the cosine to be certified there.
    """

    selection: int
    estimation: int
    target_shift: float | None
    target_bound: float

    def target(self, sigma: float) -> Target | None:
        """When a request at this noise level stops early."""
        if self.target_shift is None:
            return None
        return Target(self.target_shift * sigma, self.target_bound)


_OTHERS: Mapping[str, Profile] = {
    "fast": Profile(selection=32, estimation=300, target_shift=0.5, target_bound=0.8),
    "strong": Profile(selection=300, estimation=2000, target_shift=1.0, target_bound=0.9),
}
NAMES = ("fast", BALANCED, "strong")


def profile(name: str, settings: Settings) -> Profile:
    """One of `NAMES`, within the operator's limits.

    Raises:
        KeyError: no such name.
    """
    if name == BALANCED:
        return Profile(
            settings.default_selection_samples,
            settings.default_samples,
            settings.default_target_shift,
            settings.default_target_bound,
        )
    known = _OTHERS[name]
    return Profile(
        min(known.selection, settings.max_selection_samples),
        min(known.estimation, settings.max_samples),
        known.target_shift,
        known.target_bound,
    )


def profiles(settings: Settings) -> Iterator[tuple[str, Profile]]:
    """All of them, in the order of `NAMES`."""
    for name in NAMES:
        yield name, profile(name, settings)
