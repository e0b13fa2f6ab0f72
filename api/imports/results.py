"""`GET /imports/{id}/results`: streams what the import did with each record. Holds a connection while the client reads."""

from litestar import get
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
from api.imports.row_files import RowFileParameters
from api.imports.view import PATH, get_or_404
from db.connections.pool import Pool
from db.imports import results
from db.imports.results import Result
from db.resources import RESOURCES


@get(
    f"{PATH}/{{id:str}}/results",
    operation_class=operation(query=RowFileParameters, files={"200": CSV_OR_NDJSON}),
    tags=["imports"],
    summary="Download the results of the records",
    responses={
        200: ResponseSpec(bytes, description="The results", media_type="application/x-ndjson", generate_examples=False),
        **problem_responses(
            "invalid-request",
            "not-found",
            "not-final",
            "dry-run",
            "too-many-requests",
            "unavailable",
        ),
    },
)
async def get_import_results(
    request: AnyRequest,
    id: FromPath[str],
    db_pool: PoolHere,
    stream_pools: NamedDependency[SkipValidation[list[Pool]]],
    stream_admission: StreamAdmissionHere,
    settings: SettingsHere,
) -> ASGIResponse:
    """Line, record, id and outcome of each record that was not refused, in the order of the file.

    From the rows that are stored now: a record whose row a later import has written, or that was deleted, is `unknown`.
    """
    format = parameters.query(request, RowFileParameters).format
    job = await get_or_404(db_pool, id)
    if not job.is_final:
        raise responses.not_final("import", job.status)
    if job.dry_run:
        raise Problem(
            "dry-run", "A dry run stores no rows, so it has no results of records. Those of its commit have them."
        )
    return await row_files.respond(
        stream_pools,
        settings,
        stream_admission,
        job,
        lambda conn: results.read(conn, RESOURCES[job.resource], job),
        Result,
        content="results",
        format=format,
    )
