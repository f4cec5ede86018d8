"""Names for cases that their writers did not keep apart: several files may count from 1."""

from __future__ import annotations

import itertools
from collections.abc import Iterable


def name_apart(names: Iterable[str]) -> list[str]:
    """The names in their order; one that was there before gets #2, #3 and so on, so that no two are the same."""
    named: dict[str, None] = {}
    for name in names:
        forms = (name if number == 1 else f"{name}#{number}" for number in itertools.count(1))
        named[next(form for form in forms if form not in named)] = None
    return list(named)
