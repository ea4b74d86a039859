"""What data_groups, defaults and state have of a dict besides reading and writing.

The classes are of C++, which takes these methods over: each by way of copy(), a plain dict with the
same content, or of _write(), which takes one and writes all of it or nothing.
"""

from collections.abc import ItemsView, Iterator, Mapping, MutableMapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ._core import ConfigMap, GroupMap


class GroupItems(ItemsView[str, "ConfigMap"]):
    """A view, as that of a dict, whose items are made one at a time: there may be thousands."""

    __slots__ = ("_groups",)

    def __init__(self, groups: "GroupMap") -> None:
        super().__init__(groups)
        self._groups = groups

    def __iter__(self) -> Iterator[tuple[str, "ConfigMap"]]:
        return self._groups._iterate_items()


class _Methods:
    def __copy__(self: Any) -> Any:
        return self.copy()

    def __deepcopy__(self: Any, memo: dict[int, Any]) -> Any:
        return self.copy()

    def __reduce__(self: Any) -> Any:
        return dict, (self.copy(),)

    def __repr__(self: Any) -> str:
        return repr(self.copy())

    def __eq__(self: Any, other: object) -> Any:
        if isinstance(other, type(self)):
            return self.copy() == other.copy()
        return self.copy() == other if isinstance(other, dict) else NotImplemented

    __hash__ = None  # type: ignore[assignment]

    def __or__(self: Any, other: Mapping[str, Any]) -> Any:
        return self.copy() | dict(other)

    def __ror__(self: Any, other: Mapping[str, Any]) -> Any:
        return dict(other) | self.copy()


class _ConfigMethods(_Methods):
    def __contains__(self: Any, key: object) -> bool:
        return key in self.copy()

    def __len__(self: Any) -> int:
        return len(self.copy())

    def __iter__(self: Any) -> Iterator[str]:
        return iter(self.copy())

    def __ior__(self: Any, other: Mapping[str, Any]) -> Any:
        self._write(dict(other))
        return self

    def keys(self: Any) -> Any:
        """The keys, as they are now."""
        return self.copy().keys()

    def values(self: Any) -> Any:
        """The values, as they are now."""
        return self.copy().values()

    def items(self: Any) -> Any:
        """The items, as they are now."""
        return self.copy().items()

    def get(self: Any, key: str, default: Any = None) -> Any:
        """The value of a key, or the default."""
        return self.copy().get(key, default)

    def setdefault(self: Any, key: str, default: Any = None) -> Any:
        """The value of a key, written first if absent."""
        if key not in self:
            self[key] = default
        return self[key]

    def pop(self: Any, key: str, *default: Any) -> Any:
        """Remove a key and return its value."""
        if len(default) > 1:
            raise TypeError("pop() takes a key and one default")
        now = self.copy()
        if key not in now:
            return now.pop(key, *default)
        del self[key]
        return now[key]

    def update(self: Any, other: Any = None, /, **more: Any) -> None:
        """Write several values as a unit: all of them, or none if the result is refused."""
        self._write(dict(() if other is None else other, **more))


class _GroupMethods(_Methods):
    keys = MutableMapping.keys
    values = MutableMapping.values

    def items(self: Any) -> ItemsView[str, "ConfigMap"]:
        """A view of the pairs of a name and its config."""
        return GroupItems(self)

    def get(self: Any, name: str, default: Any = None) -> Any:
        """The config of a group, or the default."""
        if name not in self:
            return default
        return self[name]

    def update(self: Any, other: Any = None, /, **more: Any) -> None:
        """Replace the configs of several groups, all or none."""
        self._write(dict(() if other is None else other, **more))

    def __ior__(self: Any, other: Any) -> Any:  # type: ignore[misc]
        raise TypeError("groups take several configs by update(), which |= would not write")


def complete(config_map: Any, group_map: Any) -> None:
    """Gives the classes the methods above."""
    for target, methods in (config_map, _ConfigMethods), (group_map, _GroupMethods):
        for name, method in {**vars(_Methods), **vars(methods)}.items():
            if callable(method) or name == "__hash__":
                setattr(target, name, method)
        MutableMapping.register(target)
