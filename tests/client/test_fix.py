"""`bulk fix`: mend the refused records in an editor, and import them again, until nothing is refused."""

from tests.client.conftest import TWO, Bulk
from tests.support.api_client import USERS_HEADER


async def test_fix_until_nothing_is_refused(bulk, two, tmp_path, api):
    """The editor opens the refused records, twice; corrected records are stored, and none is stored twice."""
    await bulk("import", two, "-r", "users")
    editor = tmp_path / "editor"
    # the first round corrects the e-mail address, the second one the role
    editor.write_text(
        '#!/bin/sh\nif grep -q foo@bar "$1"; then sed -i s/foo@bar,/foo@example.org,/ "$1"; '
        'else sed -i s/,boss,/,admin,/ "$1"; fi\n'
    )
    editor.chmod(0o755)
    editing = Bulk(bulk.environment | {"EDITOR": str(editor), "VISUAL": ""})
    result = await editing("fix")
    assert result.code == 0, result
    assert "Every record was accepted." in result.err
    assert await api.value("SELECT array_agg(email ORDER BY email) FROM users") == [
        "ada@example.org",
        "foo@example.org",
    ]
    assert await api.value("SELECT count(*) FROM import_jobs") == 3


async def test_fix_shows_the_lines_of_the_first_file(bulk, tmp_path, api):
    """Over two rounds. Later it opens the unrepaired records; `import --repairs` sends a file that was corrected elsewhere."""
    path = tmp_path / "users.csv"
    rows = [f"u{n}@example.org,U,{'boss' if n % 2 else 'reader'},true\n".encode() for n in range(8)]
    path.write_bytes(USERS_HEADER + b"".join(rows))
    await bulk("import", str(path), "-r", "users")
    editor = tmp_path / "editor"
    # corrects the first refused record, keeps the others, and omits the last one in the first round
    editor.write_text(
        '#!/bin/sh\nsed -i \'2s/,boss,/,admin,/\' "$1"; test $(wc -l < "$1") = 5 && sed -i \'$d\' "$1"; exit 0\n'
    )
    editor.chmod(0o755)
    editing = Bulk(bulk.environment | {"EDITOR": str(editor), "VISUAL": ""})
    assert (await editing("fix")).code == 0
    jobs = await api.value("SELECT array_agg(id::text ORDER BY id) FROM import_jobs")
    lines = [[error["line"] for error in await api.errors(id)] for id in jobs]
    assert lines == [[3, 5, 7, 9], [5, 7], [7], []]
    left = tmp_path / "left.csv"
    left.write_text("_line,email,name,role,active\n9,u7@example.org,U,admin,true\n")
    assert (await bulk("import", str(left), "--repairs", jobs[0])).code == 0
    again = await editing("fix", jobs[0])
    assert (again.code, "Repairs have all refused records." in again.err) == (0, True)
    assert await api.value("SELECT count(*) FROM users") == 8


async def test_fix_stops_when_nothing_was_changed(bulk, tmp_path):
    """If the editor saves nothing, it exits with 3; another delimiter is kept."""
    path = tmp_path / "semicolons.csv"
    path.write_bytes(TWO.replace(b",", b";"))
    await bulk("import", str(path), "-r", "users", "--delimiter", ";")
    unchanged = await Bulk(bulk.environment | {"EDITOR": "true", "VISUAL": ""})("fix")
    assert (unchanged.code, "Nothing was changed" in unchanged.err) == (3, True)
    corrected = Bulk(
        bulk.environment | {"EDITOR": "sed -i -e s/;foo@bar;/;foo@example.org;/ -e s/;boss;/;reader;/", "VISUAL": ""}
    )
    assert (await corrected("fix")).code == 0
