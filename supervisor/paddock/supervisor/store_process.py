"""The store process of a host: ``python -P -m paddock.supervisor.store_process``.

It is the store's own, but for this: what descends from a session is known at its door, as it is at
the clients' (``origins``), and may not ask there. Whose live worker a process is tells the lock of
the session, which it holds: the store needs no supervisor for that, and is not late to know.
"""

import os
import re
from collections.abc import Iterator
from pathlib import Path

from paddock.session_worker.toolbox import cgroups
from paddock.store.ids import SessionId
from paddock.store.process import __main__ as store
from paddock.store.session_file import folder_of, holder_of, sessions_in
from paddock.supervisor.home import SECRET_FILE, Secret
from paddock.supervisor.origins import is_session, session_of

NOBODY = -1


class Origins:
    """Tells which session of a data folder a process comes from."""

    def __init__(self, data: Path) -> None:
        self._data = data
        folder = re.escape(os.path.realpath(data))
        self._lock = re.compile(rf"{folder}/sessions/[0-9a-f]{{2}}/([0-9a-f-]+)/owner\.lock")

    def __call__(self, pid: int, supervisor: int | None) -> str | None:
        """Return the session that a process descends from; None for an outsider."""
        return session_of(
            pid,
            group=self._group(),
            worker_of=self._worker_of,
            sessions=self._sessions(),
            is_ours=lambda session: is_session(self._data, session),
            host_pid=NOBODY if supervisor is None else supervisor,
        )

    def _group(self) -> Path | None:
        """Return the control group of the host's tools, by the name that it would have."""
        if not (self._data / SECRET_FILE).exists():
            return None
        return Path(cgroups.name_of(Secret.of(self._data).host_id(self._data)))

    def _sessions(self) -> Iterator[str]:
        yield from sessions_in(self._data)  # looked for only where a process has a mark

    def _worker_of(self, pid: int) -> str | None:
        folder = f"/proc/{pid}/fd"
        try:
            names = os.listdir(folder)  # noqa: PTH208 - a name is all there is to it
        except OSError:
            return None  # another user's, or gone
        for name in names:
            try:
                target = os.readlink(f"{folder}/{name}")  # noqa: PTH115 - as above
            except OSError:
                continue
            found = self._lock.fullmatch(target)
            if found is not None:
                holder = holder_of(folder_of(self._data, SessionId(found[1])))
                if holder is not None and holder.pid == pid:
                    return found[1]
        return None


if __name__ == "__main__":
    store.leave(store.main(origins=Origins))
