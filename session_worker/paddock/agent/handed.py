"""What an agent hands over, whatever that is."""

from paddock.session_worker.sizes import ERROR_CHARACTERS


def told(raised: BaseException) -> str:
    """Return what a user's code raised, in words; also where it has none."""
    try:
        said = str(raised)
        if isinstance(raised, BaseExceptionGroup):
            said = f"{said}: {'; '.join(map(told, raised.exceptions))}"
    except Exception:  # noqa: BLE001 - the user's own __str__
        said = "(its words cannot be told)"
    name = type(raised).__name__
    return f"{name}: {said}"[:ERROR_CHARACTERS] if said else name
