"""The store's own process, and the same for one call where no host runs."""

from paddock.store.process.keeper import LOCK_NAME, Keeper
from paddock.store.process.local import LocalStore, open_local

__all__ = ["LOCK_NAME", "Keeper", "LocalStore", "open_local"]
