"""Decoded media that training reads over and over, kept in memory by each process."""

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any

CACHE_BYTES = 1_500_000_000


class DecodedCache:
    """Values by key; the least recently used are dropped beyond `limit` bytes."""

    def __init__(self, limit: int = CACHE_BYTES) -> None:
        self.limit = limit
        self.used = 0
        self.values: OrderedDict[Hashable, tuple[Any, int]] = OrderedDict()

    def get(self, key: Hashable, load: Callable[[], Any], size: Callable[[Any], int]) -> Any:
        """The value of `key`: kept from before, or loaded now. `size` gives its bytes."""
        if key not in self.values:
            value = load()
            self.values[key] = value, size(value)
            self.used += self.values[key][1]
            while self.used > self.limit and len(self.values) > 1:
                _, (_, dropped) = self.values.popitem(last=False)
                self.used -= dropped
        self.values.move_to_end(key)
        return self.values[key][0]


decoded = DecodedCache()
