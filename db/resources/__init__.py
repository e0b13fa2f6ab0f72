"""The registry: resources by name, in the order in which foreign keys require them to be imported.

How to add one: `db/README.md`. This package uses no database connection; every other package may import it.
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
