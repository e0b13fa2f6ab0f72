"""Undo of an import: `POST …/undo` removes the rows that it created, `GET …/kept-records` names those that were kept."""

from litestar import Response, get, post
from litestar.di import NamedDependency
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import FromPath, SkipValidation
from litestar.response.base import ASGIResponse

from api.http import parameters, responses
from api.http.dependencies import PoolHere, SettingsHere
from api.http.headers import AnyRequest
from api.http.operations import CSV_OR_NDJSON, operation
from api.http.problems import Problem, problem_responses
from api.http.stream_admission import StreamAdmissionHere
from api.imports import row_files
from api.imports.records import removed
from api.imports.row_files import RowFileParameters
from api.imports.view import PATH, ImportView, get_or_404, view
from db.connections.pool import Pool, in_transaction, repeatable
from db.imports import undo
from db.imports.jobs import Import
from db.imports.records import Gone
from db.imports.undo import Kept
from monitoring import job_events


@post(
    f"{PATH}/{{id:str}}/undo",
    status_code=202,
    tags=["imports"],
    summary="Undo an import",
    responses={
        202: ResponseSpec(ImportView, description="Accepted; the undo goes on", generate_examples=False),
        200: ResponseSpec(ImportView, description="The undo is finished", generate_examples=False),
        **problem_responses("invalid-request", "not-found", "not-final", "not-undoable", "unavailable"),
    },
)
async def undo_import(
    request: AnyRequest, id: FromPath[str], db_pool: PoolHere, settings: SettingsHere
) -> Response[bytes]:
    """Removes the rows that the import created and that no one has written or referred to since; the others are kept.

    Rows that the import updated stay as they are. A repeated request continues the undo, or tries the rows again that were kept
    because others referred to them.
    """
    parameters.query(request)
    job = await _undoable(db_pool, id)
    if not job.is_final:
        raise responses.not_final("import", job.status)
    if job.finished_at is not None and (job.now - job.finished_at).total_seconds() > settings.job_retention_seconds:
        raise removed()
    try:
        await in_transaction(db_pool, lambda conn: undo.start(conn, job.id))
    except Gone:
        raise removed() from None
    # each batch is a transaction, so it can be repeated, too
    undone = await repeatable(db_pool, lambda conn: undo.run(conn, job.id))
    if undone is not None:
        job_events.import_undone(job.id, undone)
    state = await repeatable(db_pool, lambda conn: undo.get(conn, job.id))
    if state is None:
        raise removed()
    is_finished = state.finished_at is not None
    return responses.accepted(await view(db_pool, settings, job), is_final=is_finished, is_result=is_finished)


@get(
    f"{PATH}/{{id:str}}/kept-records",
    operation_class=operation(query=RowFileParameters, files={"200": CSV_OR_NDJSON}),
    tags=["imports"],
    summary="Download the rows that an undo has kept",
    responses={
        200: ResponseSpec(bytes, description="The rows", media_type="application/x-ndjson", generate_examples=False),
        **problem_responses(
            "invalid-request",
            "not-found",
            "not-undoable",
            "undo-running",
            "not-undone",
            "too-many-requests",
            "unavailable",
        ),
    },
)
async def get_kept_records(
    request: AnyRequest,
    id: FromPath[str],
    db_pool: PoolHere,
    stream_pools: NamedDependency[SkipValidation[list[Pool]]],
    stream_admission: StreamAdmissionHere,
    settings: SettingsHere,
) -> ASGIResponse:
    """Line, record, id and reason of each row, in the order of the file: `changed` or `referred_to`."""
    format = parameters.query(request, RowFileParameters).format
    job = await _undoable(db_pool, id)
    state = await repeatable(db_pool, lambda conn: undo.get(conn, job.id))
    if state is None:
        raise Problem("not-undone", "The import was not undone. POST …/undo does it.")
    if state.finished_at is None:
        raise undo_running()
    return await row_files.respond(
        stream_pools,
        settings,
        stream_admission,
        job,
        lambda conn: undo.kept(conn, job.id),
        Kept,
        content="kept",
        format=format,
    )


def undo_running() -> Problem:
    return Problem("undo-running", "The undo of the import is not finished. Wait until it is.")


async def _undoable(pool: Pool, id: str) -> Import:
    job = await get_or_404(pool, id)
    if not job.undoable:
        raise Problem("not-undoable", "The import was not made with undoable=true, so its rows are not known.")
    return job


HANDLERS = [undo_import, get_kept_records]
