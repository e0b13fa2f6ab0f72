"""The resource definitions: what is derived from a struct, and the formats that a struct requires."""

from types import SimpleNamespace

import msgspec
import pytest

from db.resources import RESOURCES
from db.resources.comments import Comment
from db.resources.definition import foreign_key_message
from db.resources.users import User


@pytest.mark.parametrize("resource", RESOURCES.values(), ids=RESOURCES)
def test_a_resource_fits_its_struct(resource):
    """Every name in a definition is a field of its struct or another resource."""
    named = {"id", *resource.references, *resource.stamped, *filter(None, [resource.key])}
    assert named <= set(resource.columns)
    assert set(resource.references.values()) <= set(RESOURCES)
    assert len(resource.column_types) == len(resource.columns)


@pytest.mark.parametrize("resource", [r for r in RESOURCES.values() if r.rules], ids=lambda resource: resource.name)
def test_rules_accept_missing_fields(resource):
    """A record without any readable field breaks no rule; the errors of its fields are reported already."""
    assert list(resource.rules(SimpleNamespace(**dict.fromkeys(resource.columns)))) == []


def test_parents_come_before_their_children():
    """In the order of the registry each resource follows those that it refers to."""
    names = list(RESOURCES)
    for resource in RESOURCES.values():
        assert all(names.index(parent) < names.index(resource.name) for parent in resource.references.values())


def test_column_types_are_those_of_postgresql():
    """Optional, enum and list fields have the type of their values."""
    assert RESOURCES["users"].column_types == ("uuid", "text", "text", "text", "bool", "timestamptz", "timestamptz")
    assert RESOURCES["articles"].column_types[5] == "text[]"
    assert RESOURCES["comments"].column_types[0] == "text"


def test_a_missing_parent_is_named():
    """The message names the parent, not the field."""
    assert foreign_key_message(RESOURCES["comments"], "user_id") == "no user has this id"


@pytest.mark.parametrize(
    ("email", "is_valid"),
    [
        ("a@b.org", True),
        ("first.last+tag@sub.example.co", True),
        ("o'brien@example.org", True),
        ("foo@bar", False),
        ("a@b.org\n", False),
        ("a b@c.org", False),
        ("a@-b.org", False),
        ("a@b..org", False),
        ("@b.org", False),
        ("ä@b.org", False),
    ],
)
def test_email_addresses(email, is_valid):
    """An address has one @ and a dot in its domain, and is ASCII."""
    assert accepts(User, email=email, name="A", role="admin", active=True) == is_valid


@pytest.mark.parametrize(("prefix", "is_valid"), [("", True), ("cm_", True), ("CM_", False), ("x", False)])
def test_comment_ids_may_have_a_prefix(prefix, is_valid):
    """A comment's id is a UUID, with or without the prefix `cm_`."""
    uuid = "5864905b-ec8c-4fa6-8ba7-545d13f29b4e"
    assert accepts(Comment, id=prefix + uuid, article_id=uuid, user_id=uuid, body="x") == is_valid


def accepts(record: type[msgspec.Struct], **fields: object) -> bool:
    try:
        msgspec.convert(fields, record)
    except msgspec.ValidationError:
        return False
    return True
