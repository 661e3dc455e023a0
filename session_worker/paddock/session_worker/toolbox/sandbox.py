"""Keep a tool out of the folders of its host: entered by the child, right before it runs the tool.

Two walls, each where the machine gives it:

* the *veil*: a mount namespace of the tool's own in which each closed folder is an empty one, and
  no folder on the way down to one can be renamed or removed. All else is as it is outside. Root has
  it; others where the system allows user namespaces.
* *Landlock*: with the veil, a domain that may use every file but not undo the veil, look into
  processes outside it, signal them, or reach their abstract sockets. Without the veil, a list of
  all that is allowed, which is everything beside the way down to the closed folders; new names
  cannot be made in the folders on that way then, and names in the closed ones can be listed.

The walls hold for all the tool starts, and nothing takes them down. A workspace that lies in a
closed folder, or is one, stays open. Standard library only and few imports: it is part of every
call's start.
"""

import ctypes
import os
import stat
import struct
import sys
from collections.abc import Iterable, Iterator, Sequence

CLONE_NEWNS, CLONE_NEWUSER = 0x00020000, 0x10000000
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC = 1, 2, 4, 8
MS_REMOUNT, MS_BIND, MS_REC, MS_SLAVE = 32, 4096, 16384, 1 << 19
PR_SET_NO_NEW_PRIVS = 38
CAPABILITY_VERSION = 0x20080522
CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446
ASK_VERSION = 1
PATH_BENEATH = 1
EXECUTE, WRITE_FILE, READ_FILE, READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
MAKE_BLOCK, REFER, TRUNCATE = 1 << 11, 1 << 13, 1 << 14
ALL_RIGHTS = (1 << 15) - 1  # up to TRUNCATE; ioctls on devices are not our concern
FILE_RIGHTS = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE
READING = EXECUTE | READ_FILE
SCOPES = 1 | 2  # abstract unix sockets, signals
OLDEST_VERSION = 2  # before it, nothing could be moved from one folder to another
TRUNCATE_VERSION, NET_VERSION, SCOPE_VERSION = 3, 4, 6
VEIL, LANDLOCK = "veil", "landlock"
EMPTY = "size=4k,nr_inodes=4,mode=0500"


class NoSandbox(Exception):
    """The machine gives none that holds; the message says why."""


class Broken(NoSandbox):
    """It failed half way, and this process is of no use for a tool any more."""


def landlock_version() -> int:
    """Return the version of Landlock that this kernel gives; 0 for none."""
    if sys.platform != "linux":
        return 0
    return max(0, int(_libc().syscall(CREATE_RULESET, None, 0, ASK_VERSION)))


def enter(
    closed: Sequence[str],
    workspace: str,
    *,
    unwritable: Sequence[str] = (),
    without: Iterable[str] = (),
) -> list[str]:
    """Put this process behind the walls that the machine gives; return their names.

    ``closed`` are absolute, without links; those that are not there are nobody's concern.
    ``unwritable`` are mounts that must not be written to (control groups: their way out).
    ``without`` names walls that are not to be used.

    Raises:
        NoSandbox: There is none that a tool could not take down.
        Broken: It failed half way; ``probe`` tells in time which walls to do without.
    """
    folders = outermost([folder for folder in closed if os.path.isdir(folder)], workspace)  # noqa: PTH112 - slow import
    walls, troubles = [], []
    is_own_user = False
    if VEIL not in without:
        try:
            is_own_user = _veil(folders, workspace, unwritable)
            walls.append(VEIL)
        except OSError as error:
            troubles.append(f"no mount namespace ({error.strerror})")
    version = 0 if LANDLOCK in without else landlock_version()
    if version >= OLDEST_VERSION:
        try:
            _landlock(version, folders, workspace, unwritable, is_veiled=VEIL in walls)
            walls.append(f"{LANDLOCK} {version}")
        except OSError as error:
            troubles.append(f"no Landlock ({error.strerror})")
    else:
        troubles.append("no Landlock" if version == 0 else f"Landlock {version} is too old")
    if is_own_user:
        _drop_capabilities()
    # Root can lift a veil as it was let down, unless Landlock forbids it to mount.
    is_kept = any(wall.startswith(LANDLOCK) for wall in walls) or (VEIL in walls and is_own_user)
    if not is_kept:
        raise NoSandbox("; ".join(troubles))
    return walls


def outermost(closed: Sequence[str], workspace: str) -> list[str]:
    """Return what has to be closed: neither the workspace itself, nor what is hidden with another.

    What is closed inside a workspace that lies in a closed folder stays named.
    """
    others = [folder for folder in dict.fromkeys(closed) if folder != workspace]
    return [
        folder
        for folder in others
        if not any(_is_hidden(folder, one, workspace) for one in others if one != folder)
    ]


def main() -> None:
    """Try the walls out on a folder, the only argument, and print what came of it.

    Each wall is tried in a process of its own, so that one that breaks does not hide the next.
    """
    folder = sys.argv[1]
    for without in ((), (VEIL,)):
        reader, writer = os.pipe()
        if os.fork() == 0:
            try:
                said = "\n".join(["ok", *enter([folder], "/", without=without)])
            except NoSandbox as none:
                said = f"no\n{none}"
            os.write(writer, said.encode())
            os._exit(0)
        os.close(writer)
        said = os.read(reader, 4096).decode()
        os.close(reader)
        os.wait()
        if said.startswith("ok"):
            break
    os.write(1, said.encode())
    os._exit(0)


# --- the veil ---


def _veil(closed: Sequence[str], workspace: str, unwritable: Sequence[str]) -> bool:
    """Hide the closed folders; return whether it took a user namespace of its own."""
    is_own_user = _unshare()
    try:
        _let_down(closed, workspace, unwritable, is_own_user=is_own_user)
    except OSError as error:
        if is_own_user:  # there is no way back from it, and half of it is a user without a name
            raise Broken(f"a mount namespace broke ({error.strerror})") from error
        raise
    return is_own_user


def _let_down(
    closed: Sequence[str], workspace: str, unwritable: Sequence[str], *, is_own_user: bool
) -> None:
    _mount("none", "/", None, MS_REC | MS_SLAVE)
    inner = sorted(closed, key=len)
    kept = os.open(workspace, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        _pin(inner, is_own_user=is_own_user)
        for folder in inner:
            _cover(folder, workspace, kept)
    finally:
        os.close(kept)
    for point in unwritable:
        flags = os.statvfs(point).f_flag & (MS_NOSUID | MS_NODEV | MS_NOEXEC)
        _mount("none", point, None, MS_REMOUNT | MS_BIND | MS_RDONLY | flags)


def _pin(closed: Sequence[str], *, is_own_user: bool) -> None:
    """Keep each folder above a closed one where it is: it can be neither renamed nor removed.

    Else a tool could move the host's home away as a whole, and make another in its place. The
    kernel refuses that (EBUSY) for what anything is mounted on, by whichever way it is reached. So
    the folder above it is shown once more, in the place of the innermost closed one, and something
    is mounted on the name there; all of it is covered next. Mounted on in its own place, the folder
    would be a file system of its own, and nothing could be moved or linked into it from beside it.
    """
    # In a namespace of less rights a folder is not shown without what is mounted below it.
    shown = MS_BIND | (MS_REC if is_own_user else 0)
    pinned: set[str] = set()
    for folder in closed:
        for one in _parents(folder):
            above, name = os.path.split(one)
            if not name or one in pinned or not os.access(above, os.W_OK):
                continue
            pinned.add(one)
            _mount(above, closed[-1], None, shown)
            _mount("paddock", f"{closed[-1]}/{name}", "tmpfs", MS_RDONLY, EMPTY)


def _unshare() -> bool:
    try:
        os.unshare(CLONE_NEWNS)
    except PermissionError:
        if os.geteuid() == 0:  # root without its rights would lose those it has for nothing
            raise
    else:
        return False
    uid, gid = os.geteuid(), os.getegid()
    os.unshare(CLONE_NEWUSER | CLONE_NEWNS)
    try:
        _write("/proc/self/setgroups", "deny")
        _write("/proc/self/uid_map", f"{uid} {uid} 1")
        _write("/proc/self/gid_map", f"{gid} {gid} 1")
    except OSError as error:
        raise Broken(f"a user namespace broke ({error.strerror})") from error
    return True


def _drop_capabilities() -> None:
    """Give up what a new user namespace gave; an exec does as much, a fork that goes on not."""
    header = struct.pack("=Ii", CAPABILITY_VERSION, 0)
    if _libc().capset(header, bytes(24)) != 0:
        raise Broken("the rights of a user namespace were not given up")


def _cover(folder: str, workspace: str, kept: int) -> None:
    """Put an empty folder over ``folder``; a workspace inside it (``kept``) shows through."""
    flags = MS_NOSUID | MS_NODEV | MS_NOEXEC
    if not _is_in(workspace, folder):
        _mount("paddock", folder, "tmpfs", flags | MS_RDONLY, EMPTY)
        return
    _mount("paddock", folder, "tmpfs", flags, "size=64k,mode=0700")
    os.makedirs(workspace, mode=0o700, exist_ok=True)  # noqa: PTH103 - slow import
    _mount(f"/proc/self/fd/{kept}", workspace, None, MS_BIND | MS_REC)
    _mount("none", folder, None, MS_REMOUNT | MS_BIND | MS_RDONLY | flags)


def _mount(source: str, target: str, kind: str | None, flags: int, data: str = "") -> None:
    words = [None if word is None else os.fsencode(word) for word in (source, target, kind)]
    done = _libc().mount(*words, ctypes.c_ulong(flags), os.fsencode(data) or None)
    if done != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), target)


# --- Landlock ---


def _landlock(
    version: int,
    closed: Sequence[str],
    workspace: str,
    unwritable: Sequence[str],
    *,
    is_veiled: bool,
) -> None:
    if is_veiled:
        # Any right at all makes a domain, in which nothing can be mounted or unmounted.
        handled = REFER | MAKE_BLOCK
        rules: Iterable[tuple[str, int]] = [("/", handled)]
    else:
        handled = ALL_RIGHTS & ~READ_DIR
        if version < TRUNCATE_VERSION:
            handled &= ~TRUNCATE
        rules = allowed(closed, workspace, unwritable, handled)
    ruleset = _make_ruleset(version, handled)
    try:
        for path, rights in rules:
            _allow(ruleset, path, rights)
        _restrict(ruleset)
    finally:
        os.close(ruleset)


def allowed(
    closed: Sequence[str], workspace: str, unwritable: Sequence[str], rights: int
) -> Iterator[tuple[str, int]]:
    """Yield what may be used and how, which is all but the closed folders.

    Rules hold for all that is below, so everything *beside* the way down to a closed folder is
    named. A closed folder whose siblings nothing else requires to be named stays open if it stands
    where everybody makes files (sockets in /tmp): those are guarded by the host at its door.
    """
    first = set(_parents(closed[0])) if closed else set()
    kept = [one for one in closed if set(_parents(one)) <= first or not _is_shared(one)]
    way = {parent for one in (*kept, *unwritable) for parent in _parents(one)}
    left_out = {*kept, *unwritable}
    for folder in sorted(way) or ["/"]:
        if any(_is_hidden(folder, one, workspace) for one in kept):
            continue  # on the way to a closed one in a workspace that lies in a closed one
        for name in _names(folder):
            path = os.path.join(folder, name)  # noqa: PTH118 - slow import
            if path not in way and path not in left_out:
                yield path, rights
    for point in unwritable:
        yield point, rights & READING
    if workspace not in way and any(_is_in(workspace, one) for one in kept):
        yield workspace, rights


def _is_shared(folder: str) -> bool:
    try:
        return bool(os.stat(os.path.dirname(folder)).st_mode & stat.S_ISVTX)  # noqa: PTH116, PTH120
    except OSError:
        return False


def _names(folder: str) -> list[str]:
    try:
        return os.listdir(folder)  # noqa: PTH208 - slow import
    except OSError:
        return []


def _parents(path: str) -> list[str]:
    found = []
    while path not in ("/", ""):
        path = os.path.dirname(path)  # noqa: PTH120 - slow import
        found.append(path)
    return found


def _is_in(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip("/") + "/")


def _is_hidden(path: str, closed: str, workspace: str) -> bool:
    """Tell whether a path is closed with a closed folder; a workspace in there is not."""
    if not _is_in(path, closed):
        return False
    return not (_is_in(workspace, closed) and _is_in(path, workspace))


def _make_ruleset(version: int, handled: int) -> int:
    words = [handled]
    if version >= NET_VERSION:
        words.append(0)
    if version >= SCOPE_VERSION:
        words.append(SCOPES)
    attributes = struct.pack(f"={len(words)}Q", *words)
    return _call(CREATE_RULESET, attributes, ctypes.c_size_t(len(attributes)), 0)


def _allow(ruleset: int, path: str, rights: int) -> None:
    try:
        place = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return  # it went away, or cannot be named: it stays closed
    try:
        mode = os.fstat(place).st_mode
        if stat.S_ISLNK(mode):
            return  # what it leads to is named where it stands
        if not stat.S_ISDIR(mode):
            rights &= FILE_RIGHTS
        if rights:
            rule = struct.pack("=Qi", rights, place)
            _call(ADD_RULE, ruleset, PATH_BENEATH, rule, 0)
    finally:
        os.close(place)


def _restrict(ruleset: int) -> None:
    try:
        _call(RESTRICT_SELF, ruleset, 0)
    except PermissionError:  # who has no privilege must give up gaining any
        _libc().prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        _call(RESTRICT_SELF, ruleset, 0)


def _call(number: int, *arguments: object) -> int:
    found = int(_libc().syscall(number, *arguments))
    if found < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    return found


def _libc() -> ctypes.CDLL:
    global _LIBC  # noqa: PLW0603 - made once; ctypes makes a new one on each call
    if _LIBC is None:
        _LIBC = ctypes.CDLL(None, use_errno=True)
    return _LIBC


_LIBC: ctypes.CDLL | None = None


def _write(path: str, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(descriptor, text.encode())
    finally:
        os.close(descriptor)
