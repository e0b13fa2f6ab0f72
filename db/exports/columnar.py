"""Writes Parquet files and Arrow streams while the records arrive. Needs pyarrow, which is in the extra `parquet`.

Identifiers and enumerations are strings, times are microseconds in UTC, lists of text are lists of strings.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from importlib.util import find_spec
from io import RawIOBase
from typing import Any, Literal, get_args

from db.formats import ExportFormat

ColumnarFormat = Literal["parquet", "arrow"]
EXTRA = "parquet"

# Arrow's size of the records of a row group, which are in memory until it is written
ROW_GROUP_BYTES = 16 * 1024 * 1024


def is_available(format: ExportFormat) -> bool:
    """Whether this process can write the format: what it needs is installed. Does not load it."""
    return format not in get_args(ColumnarFormat) or find_spec("pyarrow") is not None


class _Sink(RawIOBase):
    """What pyarrow writes to: counts the bytes, and keeps those that were not taken."""

    def __init__(self) -> None:
        self._data = bytearray()
        self._position = 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any, /) -> int:
        size = memoryview(data).nbytes
        self._data += data
        self._position += size
        return size

    def tell(self) -> int:
        return self._position

    def take(self) -> bytes:
        data = bytes(self._data)
        self._data.clear()
        return data


class ColumnarWriter:
    """`columns` are the names of the columns, PostgreSQL's types of them, and whether they can be null."""

    def __init__(self, format: ColumnarFormat, columns: Sequence[tuple[str, str, bool]]) -> None:
        import pyarrow
        import pyarrow.parquet

        types = {
            "bool": pyarrow.bool_(),
            "timestamptz": pyarrow.timestamp("us", tz="UTC"),
            "text[]": pyarrow.list_(pyarrow.string()),
        }
        self._schema = pyarrow.schema(
            [
                pyarrow.field(name, types.get(type, pyarrow.string()), nullable=nullable)
                for name, type, nullable in columns
            ]
        )
        self._sink = _Sink()
        self._open = ExitStack()
        file = self._open.enter_context(pyarrow.PythonFile(self._sink, mode="w"))
        if format == "parquet":
            self._writer = pyarrow.parquet.ParquetWriter(file, self._schema, compression="zstd")
        else:
            self._writer = pyarrow.ipc.new_stream(file, self._schema)
        self._open.callback(self._writer.close)
        self._is_parquet = format == "parquet"
        self._batches: list[pyarrow.RecordBatch] = []
        self._size = 0

    def add(self, records: Sequence[Sequence[Any]]) -> bytes:
        """Adds records with a JSON value for each column. Returns the bytes that are ready, perhaps none."""
        import pyarrow

        if records:
            columns = zip(*records, strict=True)
            arrays = [_array(values, field) for values, field in zip(columns, self._schema, strict=True)]
            batch = pyarrow.RecordBatch.from_arrays(arrays, schema=self._schema)
            self._batches.append(batch)
            self._size += batch.nbytes
        if not self._is_parquet or self._size >= ROW_GROUP_BYTES:
            self._write()
        return self._sink.take()

    def finish(self) -> bytes:
        """The rest of the file."""
        self._write()
        self._writer.close()
        return self._sink.take()

    def close(self) -> None:
        """Ends the file, also one that is not complete."""
        self._open.close()

    def _write(self) -> None:
        import pyarrow

        if self._batches:
            table = pyarrow.Table.from_batches(self._batches, schema=self._schema)
            # one row group, whatever its number of rows
            self._writer.write_table(table, table.num_rows)
        self._batches.clear()
        self._size = 0


def _array(values: Sequence[Any], field: Any) -> Any:
    import pyarrow

    if pyarrow.types.is_timestamp(field.type):
        return pyarrow.array(values, pyarrow.string()).cast(field.type)
    return pyarrow.array(values, field.type)
