"""Writes fixtures/data: the same conversations as JSON lines and as Parquet, packed in every way that others pack them.

    pip install pyarrow && python reference/make_data_files.py    (26.0 made those that are here)

Parquet makes one table of all rows: a call's arguments get the fields of all calls, and null where they had none. Our
reader must give back what the JSON lines say. `zstd` and `gzip` are the programs of those names.
"""

import json
import pathlib
import subprocess

import pyarrow as pa
import pyarrow.parquet as pq

FOLDER = pathlib.Path(__file__).resolve().parent.parent / "fixtures" / "data"


def call(name, **arguments):
    return [{"type": "function", "function": {"name": name, "arguments": arguments}}]


def row(n):
    if n % 3 == 0:
        messages = [
            {"role": "system", "content": f"You compute. ({n})"},
            {"role": "user", "content": f"What is {n} × 7?"},
            {"role": "assistant", "content": None, "tool_calls": call("multiply", a=n, b=7)},
            {"role": "tool", "content": str(n * 7)},
            {"role": "assistant", "content": f"It is {n * 7}.", "reasoning_content": "The tool says so."},
        ]
    elif n % 3 == 1:
        messages = [
            {"role": "user", "content": f"Say {n}."},
            {"role": "assistant", "content": None, "tool_calls": call("say", words=["number", str(n)])},
            {"role": "tool", "content": "said"},
            {"role": "assistant", "content": "Done.", "weight": 0.5},
        ]
    else:
        messages = [
            {"role": "user", "content": f"Grüße {n}!\n\"quoted\" \\ and \t tab"},
            {"role": "assistant", "content": f"Hallo {n} 👋"},
        ]
    kinds = ["debugging", "replay", None]
    return {"messages": messages, "kind": kinds[n % 3], "weight": 2.0 if n % 5 == 0 else None}


def without_nulls(value):
    if isinstance(value, dict):
        return {key: without_nulls(of) for key, of in value.items() if of is not None}
    if isinstance(value, list):
        return [without_nulls(of) for of in value]
    return value


def main():
    FOLDER.mkdir(parents=True, exist_ok=True)
    rows = [row(n) for n in range(60)]
    lines = "".join(json.dumps(without_nulls(of), ensure_ascii=False) + "\n" for of in rows)
    (FOLDER / "chats.jsonl").write_text(lines, encoding="utf-8")
    table = pa.Table.from_pylist(rows)
    for name, options in {
        "snappy": {"compression": "snappy"},
        "zstd": {"compression": "zstd"},
        "gzip": {"compression": "gzip"},
        "none": {"compression": "none", "use_dictionary": False},
        "pages_v2": {"compression": "zstd", "data_page_version": "2.0"},
        "lz4": {"compression": "lz4"},
    }.items():
        pq.write_table(table, FOLDER / f"chats.{name}.parquet", row_group_size=25, **options)
    half = len(lines.encode()) // 2
    parts = [lines.encode()[:half], lines.encode()[half:]]
    packed = {
        "chats.jsonl.zst": b"".join(subprocess.run(["zstd", "-19", "-c"], input=part, stdout=-1).stdout for part in parts),
        "chats.jsonl.gz": b"".join(subprocess.run(["gzip", "-9", "-n", "-c"], input=part, stdout=-1).stdout for part in parts),
    }
    for name, data in packed.items():
        (FOLDER / name).write_bytes(data)


if __name__ == "__main__":
    main()
