"""The resources by name, in the order in which foreign keys need them imported.

To add one: a module beside `users.py`, its entry in the tuple below, and a migration for its table (see `definition`).
This package has no database connection; every other package may import it.
"""

from typing import TYPE_CHECKING, Literal, TypeAlias

from db.resources.articles import ARTICLES
from db.resources.comments import COMMENTS
from db.resources.definition import Resource
from db.resources.users import USERS

RESOURCES: dict[str, Resource] = {resource.name: resource for resource in (USERS, ARTICLES, COMMENTS)}

# the type of a parameter that names a resource
if TYPE_CHECKING:
    ResourceName: TypeAlias = str
else:
    ResourceName = Literal[tuple(RESOURCES)]
