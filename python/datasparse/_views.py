"""What data_groups.items() and state.items() return."""

from collections.abc import ItemsView, Iterator
from typing import TYPE_CHECKING

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
