"""Files with a text a row: JSON lines, CSV and TSV, Parquet.

Each reader gives (row number from 0, text) from a row on. In all but CSV a column `a.b` is the key
b in the object a, or in each object of the list a. The texts of a list become one, with a blank
line between them; nulls in it, and objects without the key, are left out.
"""

import csv
import functools
import io
import json
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import orjson

from minigpt.data.content import open_text, readable
from minigpt.errors import DataError
from minigpt.files.durable import open_regular

LONGEST_ROW = 1 << 28  # bytes of a line of JSON, characters of a field of CSV
BYTE_ORDER_MARK = "\ufeff".encode()
JOINT = "\n\n"  # between the texts of a list

Rows = Iterator[tuple[int, str | None]]


def json_lines(path: Path, column: str, skip: int) -> Rows:
    """Each line that is not blank, from line `skip` on."""
    with open_text(path) as file:
        lines = iter(functools.partial(file.readline, LONGEST_ROW + 1), b"")
        for number, line in enumerate(lines):
            if number == 0:
                line = line.removeprefix(BYTE_ORDER_MARK)
            if number < skip or not line or line.isspace():
                continue
            where = f"{path}, line {number + 1}"
            if len(line) > LONGEST_ROW:
                raise DataError(
                    f"line longer than {LONGEST_ROW:,} bytes: {where} (cut it, or use .txt)"
                )
            try:
                row = parse(line)
            except ValueError as error:
                raise DataError(f"not JSON: {where} ({error})") from None
            yield number, text_in(row, column, where)


def text_in(row: Any, column: str, where: str) -> str | None:
    """The text of a row. DataError if there is none, or something else."""
    try:
        if not isinstance(row, dict):
            raise KeyError(column)
        value = reach(row, [column] if column in row else column.split("."))
    except KeyError:
        keys = ", ".join(keys_of(row)) if isinstance(row, dict) else type(row).__name__
        raise DataError(f"no key {column!r}: {where} (it has: {keys}; set data.column)") from None
    except RecursionError:
        raise DataError(f"{column!r} is nested too deeply: {where} (set data.column)") from None
    if value is None or isinstance(value, str):
        return value
    inner = [key for key in keys_of({column: value}) if key != column]
    way_out = f"set data.column={' or '.join(inner)}" if inner else "set data.column"
    raise DataError(f"{column!r} is no text but {type(value).__name__}: {where} ({way_out})")


def reach(value: Any, keys: Sequence[str]) -> Any:
    """What lies under the keys, as the top of this file says. KeyError if nothing has them."""
    if isinstance(value, list):
        found = []
        for item in value:
            with suppress(KeyError):
                found.append(reach(item, keys))
        if value and not found:
            raise KeyError(keys[0])
        texts = [text for text in found if text is not None]
        return JOINT.join(texts) if all(isinstance(text, str) for text in texts) else found
    if value is None or not keys:
        return value
    if not isinstance(value, dict):
        raise KeyError(keys[0])
    return reach(value[keys[0]], keys[1:])


def keys_of(row: dict[str, Any]) -> list[str]:
    """The keys of a row; where one holds objects, the keys in the first: doc.body."""
    keys = []
    for key, value in row.items():
        first = next(filter(None, value), None) if isinstance(value, list) else value
        keys += [f"{key}.{x}" for x in first] if first and isinstance(first, dict) else [key]
    return sorted(keys)


def parse(line: bytes) -> Any:
    """A line of JSON. The lenient parser takes invalid UTF-8, lone surrogates and NaN."""
    try:
        return orjson.loads(line)
    except ValueError:
        try:
            return json.loads(line.decode("utf-8", errors="replace"))
        except RecursionError:
            raise ValueError("nested too deeply") from None


def csv_rows(path: Path, column: str, skip: int, delimiter: str = ",") -> Rows:
    """Each row below the header. Fields may be quoted and hold line breaks."""
    csv.field_size_limit(LONGEST_ROW)
    with open_text(path) as file:
        text = io.TextIOWrapper(file, "utf-8-sig", errors="replace", newline="")
        rows = csv.reader(text, delimiter=delimiter, strict=True)
        try:
            header = next(rows, [])
            refuse_other_delimiter(header, path)
            place = place_of(column, header, path)
            for number, row in enumerate(filter(None, rows)):  # a blank line is an empty row
                if len(row) != len(header):
                    raise DataError(
                        f"row has {len(row)} fields, the header {len(header)}: "
                        f"{path}, line {rows.line_num} (put fields with {delimiter!r} "
                        'or line breaks between ", and double each " inside)'
                    )
                if number >= skip:
                    yield number, row[place]
        except csv.Error as error:
            raise DataError(f"not CSV: {path}, line {rows.line_num} ({error})") from None


def refuse_other_delimiter(header: list[str], path: Path) -> None:
    """DataError for one column whose name holds what divides columns elsewhere."""
    if len(header) == 1 and (found := [mark for mark in ",;|\t" if mark in header[0]]):
        raise DataError(
            f"one column {header[0]!r}, it seems divided by {found[0]!r}: {path} "
            "(.csv is divided by commas, .tsv by tabs: name or write it so)"
        )


tsv_rows = functools.partial(csv_rows, delimiter="\t")


def parquet_rows(path: Path, column: str, skip: int) -> Rows:
    """Each row from row `skip` on; row groups before it are not read."""
    import pyarrow
    import pyarrow.parquet

    try:
        with (
            readable(path),
            open_regular(path) as opened,
            pyarrow.parquet.ParquetFile(opened) as file,
        ):
            top = top_of(column, file.schema_arrow.names, path)
            number = 0
            for group in range(file.num_row_groups):
                n_rows = file.metadata.row_group(group).num_rows
                if number + n_rows <= skip:
                    number += n_rows
                    continue
                for batch in file.iter_batches(batch_size=256, row_groups=[group], columns=[top]):
                    for value in values_of(batch.column(0)):
                        if number >= skip:
                            yield number, text_in({top: value}, column, f"{path}, row {number}")
                        number += 1
    except pyarrow.ArrowException as error:
        raise DataError(f"damaged parquet file: {path} ({error})") from None


def place_of(column: str, names: list[str], where: Path | str) -> int:
    """Where the column stands. DataError unless it is there exactly once."""
    if (n_found := names.count(column)) != 1:
        what = f"{n_found} columns {column!r}" if n_found else f"no column {column!r}"
        known = ", ".join(names)
        known = known if len(known) <= 200 else known[:197] + "..."
        raise DataError(f"{what}: {where} (it has: {known}; set data.column)")
    return names.index(column)


def top_of(column: str, names: list[str], where: Path | str) -> str:
    """The name of the whole column that `a.b` reaches into. DataError if there is none."""
    top = column if column in names else column.partition(".")[0]
    place_of(top if top in names else column, names, where)
    return top


def values_of(values: Any) -> list[Any]:
    """A column as Python's values; text that is no UTF-8 holds U+FFFD."""
    import pyarrow

    try:
        return values.to_pylist()  # type: ignore[no-any-return]
    except UnicodeDecodeError:
        narrow = values.type == pyarrow.string()
        binary = values.cast(pyarrow.binary() if narrow else pyarrow.large_binary())
        return [
            None if value is None else value.decode("utf-8", errors="replace")
            for value in binary.to_pylist()
        ]
