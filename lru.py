"""``LRU``: a mapping that keeps its most recently used entries, as a doubly linked list plus a dict.

All operations are O(1). It knows nothing of TLS, locks or logging, and is not thread-safe.
"""

from collections.abc import Hashable, Iterator
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class _Node(Generic[K, V]):
    __slots__ = ("key", "newer", "older", "value")

    def __init__(self, key: K, value: V) -> None:
        self.key = key
        self.value = value
        self.newer: _Node[K, V] | None = None
        self.older: _Node[K, V] | None = None


class LRU(Generic[K, V]):
    """At most ``capacity`` entries (>= 1, else ``ValueError``), the most recently used at the head."""

    __slots__ = ("_head", "_nodes", "_tail", "capacity")

    def __init__(self, capacity: int) -> None:
        self._head: _Node[K, V] | None = None
        self._tail: _Node[K, V] | None = None
        self._nodes: dict[K, _Node[K, V]] = {}
        if capacity < 1:
            raise ValueError("an LRU holds at least one entry")
        self.capacity = capacity

    def __del__(self) -> None:
        """Unlink the nodes: they are reference cycles, which only the collector would free, perhaps never."""
        node = self._head
        while node is not None:
            node.newer, node.older, node = None, None, node.older

    def __len__(self) -> int:
        return len(self._nodes)

    def __iter__(self) -> Iterator[K]:
        """The keys, most recently used first."""
        node = self._head
        while node is not None:
            yield node.key
            node = node.older

    def get(self, key: K) -> V | None:
        """Return the value, and move its entry to the head; None if the key is not held."""
        node = self._nodes.get(key)
        if node is None:
            return None
        if node is not self._head:
            self._unlink(node)
            self._link(node)
        return node.value

    def peek(self, key: K) -> V | None:
        """Return the value without moving its entry; None if the key is not held."""
        node = self._nodes.get(key)
        return None if node is None else node.value

    def replace(self, key: K, value: V) -> None:
        """Change the value of a key without moving its entry; do nothing if the key is not held."""
        node = self._nodes.get(key)
        if node is not None:
            node.value = value

    def put(self, key: K, value: V) -> None:
        """Put an entry at the head; beyond the capacity, evict the one at the tail."""
        node = self._nodes.get(key)
        if node is not None:
            node.value = value
            self._unlink(node)
            self._link(node)
            return
        node = self._nodes[key] = _Node(key, value)
        self._link(node)
        if len(self._nodes) > self.capacity:
            last = self._tail
            assert last is not None  # more than one entry
            self._unlink(last)
            del self._nodes[last.key]

    def pop(self, key: K) -> V | None:
        """Remove an entry and return its value; None if the key is not held."""
        node = self._nodes.pop(key, None)
        if node is None:
            return None
        self._unlink(node)
        return node.value

    def _link(self, node: _Node[K, V]) -> None:
        node.newer = None
        node.older = self._head
        if self._head is not None:
            self._head.newer = node
        self._head = node
        if self._tail is None:
            self._tail = node

    def _unlink(self, node: _Node[K, V]) -> None:
        if node.newer is None:
            self._head = node.older
        else:
            node.newer.older = node.older
        if node.older is None:
            self._tail = node.newer
        else:
            node.older.newer = node.newer
