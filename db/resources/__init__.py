"""The registry: every resource by name, in the order in which foreign keys want them imported."""

from db.resources.articles import ARTICLES
from db.resources.comments import COMMENTS
from db.resources.definition import Resource
from db.resources.users import USERS

RESOURCES: dict[str, Resource] = {resource.name: resource for resource in (USERS, ARTICLES, COMMENTS)}
