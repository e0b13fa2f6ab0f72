"""Random imports and undos against a model, and undos of imports with duplicates of all kinds."""

from collections import Counter
from random import Random
from uuid import UUID

from tests.support import duplicates, factories
from tests.support.factories import rows, stored_article, user
from tests.support.undo import imported, kept, numbers, undone

# see tests/README.md
THROUGH_PGBOUNCER = True


async def test_duplicates_of_all_kinds_are_remembered_rightly(conn):
    """Random files with duplicates, in chunks of any order: the undo restores the table, but for rows that were updated."""
    random = Random(7)
    for _ in range(duplicates.EXAMPLES // 2):
        case = duplicates.random_case(random)._replace(dry_run=False)
        id = await duplicates.prepare(conn, case)
        await conn.execute("UPDATE import_jobs SET undoable = true")
        job = await factories.run(conn, id, order=case.order, chunks_max=case.chunks_max)
        assert numbers(await undone(conn, id)) == ({"removed": job.created} if job.created else {}), case
        assert {row_id for (row_id,) in await rows(conn, "SELECT id FROM users")} == set(case.stored), case


class Model:
    """What is stored: the import that created each row, None once another has written it; and the rows with an article."""

    def __init__(self) -> None:
        self.owner: dict[UUID, UUID | None] = {}
        self.with_article: set[UUID] = set()
        # of each import, the rows that it created and that its undo has not removed, and the results of the undo
        self.created: dict[UUID, list[UUID]] = {}
        self.results: dict[UUID, Counter[str]] = {}

    def imported(self, job: UUID, ids: list[UUID], mode: str) -> None:
        self.created[job] = [id for id in ids if id not in self.owner]
        self.owner |= dict.fromkeys(ids if mode == "upsert" else (), None) | dict.fromkeys(self.created[job], job)

    def undone(self, job: UUID) -> Counter[str]:
        before = self.results.get(job)
        if before is not None and not before["referred_to"]:
            return before
        result = Counter({name: n for name, n in (before or {}).items() if name in ("removed", "missing")})
        kept: list[UUID] = []
        for id in self.created[job]:
            if id not in self.owner:
                reason = "missing"
            elif self.owner[id] != job:
                reason = "changed"
            else:
                reason = "referred_to" if id in self.with_article else "removed"
            result[reason] += 1
            if reason == "removed":
                del self.owner[id]
            elif reason != "missing":
                kept.append(id)
        self.created[job], self.results[job] = kept, result
        return result


async def test_random_imports_and_undos_against_a_model(conn):
    """Several imports with ids in common, SQL between them, and undos in any order: rows and counts are those of a model."""
    random = Random(11)
    for _ in range(duplicates.EXAMPLES // 5):
        await conn.execute("DELETE FROM articles; DELETE FROM users; DELETE FROM import_jobs")
        model = Model()
        for number in range(12):
            match random.choice(["import", "import", "undo", "undo", "write", "article", "orphan", "remove"]):
                case "import":
                    ids = random.sample(duplicates.IDS, random.randint(1, len(duplicates.IDS)))
                    mode = random.choice(["upsert", "skip"])
                    records = [user(id.int, id=str(id), name=random.choice("ab")) for id in ids]
                    sizes = [1, len(ids) - 1] if len(ids) > 1 else None
                    model.imported(await imported(conn, records, mode=mode, sizes=sizes), ids, mode)
                case "undo" if model.created:
                    job = random.choice(list(model.created))
                    assert numbers(await undone(conn, job)) == model.undone(job)
                    assert len(await kept(conn, job)) == len(model.created[job])
                case "write" if model.owner:
                    id = random.choice(list(model.owner))
                    await conn.execute("UPDATE users SET name = 'sql' WHERE id = %(id)s", {"id": id})
                    model.owner[id] = None
                case "article" if model.owner:
                    id = random.choice(list(model.owner))
                    await stored_article(conn, id, number)
                    model.with_article.add(id)
                case "orphan" if model.with_article:
                    id = model.with_article.pop()
                    await conn.execute("DELETE FROM articles WHERE author_id = %(id)s", {"id": id})
                case "remove" if model.owner.keys() - model.with_article:
                    id = random.choice(sorted(model.owner.keys() - model.with_article))
                    await conn.execute("DELETE FROM users WHERE id = %(id)s", {"id": id})
                    del model.owner[id]
                case _:
                    continue
            assert {id for (id,) in await rows(conn, "SELECT id FROM users")} == set(model.owner)
