"""`bulk undo` and `Client.undo`."""

import json

from tests.support.api_client import USERS_HEADER, user_row


async def imported(bulk, tmp_path, *options) -> str:
    """The id of an undoable import of three users."""
    file = tmp_path / "users.csv"
    file.write_bytes(USERS_HEADER + b"".join(map(user_row, range(3))))
    result = await bulk("import", str(file), "--undoable", "--json", *options)
    assert result.code == 0, result
    return json.loads(result.out.splitlines()[-1])["id"]


async def test_an_undo_lists_what_was_kept(bulk, tmp_path, api):
    """The counts go to stderr, the kept rows to stdout."""
    id = await imported(bulk, tmp_path)
    await api.conn.execute("UPDATE users SET name = 'other' WHERE email = 'user1@example.org'")
    kept = await api.value("SELECT id::text FROM users WHERE name = 'other'")
    result = await bulk("undo", id)
    assert (result.code, result.out) == (0, f"line,record,id,reason\n3,2,{kept},changed\n"), result
    assert "2 removed, 1 kept because they were changed" in result.err
    assert (await bulk("undo", "--kept")).out == result.out


async def test_an_undo_as_json(bulk, tmp_path):
    """`--json` prints the import."""
    await imported(bulk, tmp_path)
    result = await bulk("undo", "last", "--json")
    assert json.loads(result.out)["undo"]["removed"] == 3, result


async def test_the_check_comes_first(bulk, tmp_path):
    """With --check-first the commit is undoable, not the check."""
    id = await imported(bulk, tmp_path, "--check-first")
    result = await bulk("undo", id, "--json")
    assert json.loads(result.out)["undo"]["removed"] == 3, result


async def test_an_import_that_is_not_undoable(bulk, tmp_path):
    """The problem is one sentence, and the command fails."""
    result = await bulk("import", "-", "-r", "users", "--format", "csv", stdin=USERS_HEADER + user_row(1))
    assert result.code == 0, result
    result = await bulk("undo")
    assert (result.code, result.out) == (1, "")
    assert "undoable=true" in result.err
