"""Rows as aligned lines of text. Pure; widths are those of cells of a terminal, not of letters."""

from collections.abc import Collection, Sequence

from rich.cells import cell_len, set_cell_size

from paddock.store.ids import is_uuid7

GAP = "  "
LEAST_WIDTH = 4
"""Below this a column says nothing: where that does not fit, the end of the line is cut."""
TELLING_CHARACTERS = 12
"""Of an id, its last: ids of one day begin alike, and any verb takes a part that only one has."""


def lines_of(
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    right: Collection[str] = (),
    room: int | None = None,
) -> list[str]:
    """Return a head and the rows below it, each value in its column.

    ``right`` names the columns that end at their right side. Where a line does not fit into
    ``room`` cells, ids are shown by their ends, then the widest columns are cut; None cuts nothing.
    """
    table = [list(columns), *rows]
    widths = _widths(table)
    if room is not None:
        room -= len(GAP) * (len(widths) - 1)
        if sum(widths) > room:
            table = [[_end_of_id(text) for text in row] for row in table]
            widths = _widths(table)
        widths = narrowed(widths, room)
    sides = [column in right for column in columns]
    return [
        GAP.join(_placed(*each) for each in zip(row, widths, sides, strict=True)).rstrip()
        for row in table
    ]


def _widths(table: Sequence[Sequence[str]]) -> list[int]:
    return [max(map(cell_len, column)) for column in zip(*table, strict=True)]


def _end_of_id(text: str) -> str:
    return text[-TELLING_CHARACTERS:] if is_uuid7(text) else text


def narrowed(widths: Sequence[int], room: int) -> list[int]:
    """Return widths that fit into ``room``, if they can: all above one width are cut to it."""
    left, open_columns = room, len(widths)
    for width in sorted(widths):
        if width * open_columns > left:
            widest = max(LEAST_WIDTH, left // open_columns)
            return [min(each, widest) for each in widths]
        left -= width
        open_columns -= 1
    return list(widths)


def _placed(text: str, width: int, is_right: bool) -> str:
    taken = cell_len(text)
    if taken > width:
        return set_cell_size(text, width - 1) + "…"
    padding = " " * (width - taken)
    return padding + text if is_right else text + padding
