"""Rows as aligned lines of text. Pure; widths are those of cells of a terminal, not of letters."""

from collections.abc import Collection, Sequence

from rich.cells import cell_len, set_cell_size

GAP = "  "
LEAST_WIDTH = 4
"""Below this a column says nothing: where that does not fit, the end of the line is cut."""


def lines_of(
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    right: Collection[str] = (),
    room: int | None = None,
) -> list[str]:
    """Return a head and the rows below it, each value in its column.

    ``right`` names the columns that end at their right side. In ``room`` cells, the widest columns
    are cut until a line fits; None cuts nothing.
    """
    table = [list(columns), *rows]
    widths = [max(cell_len(row[place]) for row in table) for place in range(len(columns))]
    if room is not None:
        widths = narrowed(widths, room - len(GAP) * (len(widths) - 1))
    sides = [column in right for column in columns]
    return [
        GAP.join(_placed(*each) for each in zip(row, widths, sides, strict=True)).rstrip()
        for row in table
    ]


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
