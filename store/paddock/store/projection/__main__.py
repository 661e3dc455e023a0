"""Print ``docs/SQL.md``, made from the schema."""

from paddock.store.projection.schema import document

print(document(), end="")  # noqa: T201 - printing is its work
