"""`GET /imports/{id}/timeline`: the progress of an import over time and by position in the file, for charts."""

from typing import Annotated

import msgspec
from litestar import Response, get
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import FromPath
from msgspec import Meta

from api.http import parameters, responses
from api.http.dependencies import PoolHere
from api.http.headers import AnyRequest
from api.http.operations import operation
from api.http.problems import problem_responses
from api.imports.view import PATH, get_or_404
from db.connections.pool import Connection, repeatable
from db.imports import timeline
from db.imports.timeline import FileBin, TimeBin


class Timeline(msgspec.Struct, frozen=True, kw_only=True):
    """`seconds`: bins of time, without those in which no record was finished. `file`: bins of the file, without gaps."""

    seconds: list[TimeBin]
    file: list[FileBin]


class TimelineParameters(msgspec.Struct, kw_only=True):
    bins: Annotated[int, Meta(ge=1, le=1000, description="The maximum number of bins of each kind.")] = 120


@get(
    f"{PATH}/{{id:str}}/timeline",
    operation_class=operation(query=TimelineParameters),
    tags=["imports"],
    summary="Get an import over time and over its file",
    responses={
        200: ResponseSpec(Timeline, description="The bins", generate_examples=False),
        **problem_responses("invalid-request", "not-found", "unavailable"),
    },
)
async def get_import_timeline(request: AnyRequest, id: FromPath[str], db_pool: PoolHere) -> Response[bytes]:
    """The numbers of finished and refused records over time and by position in the file."""
    requested = parameters.query(request, TimelineParameters)
    job = await get_or_404(db_pool, id)

    async def read(conn: Connection) -> Timeline:
        return Timeline(
            seconds=await timeline.over_time(conn, job.id, bins=requested.bins),
            file=await timeline.over_file(conn, job.id, total_records=job.total_records, bins=requested.bins),
        )

    return Response(msgspec.json.encode(await repeatable(db_pool, read)), media_type=responses.JSON)
