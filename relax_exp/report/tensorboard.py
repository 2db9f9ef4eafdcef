"""Tables as text in TensorBoard, through its own writer, so without torch."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

from relax_exp.report.formats import Table, markdown

FOLDER = "tb"


def write(tables: Iterable[Table], out: Path) -> Path:
    """Write every table as Markdown, ``tables/NAME``, in an event file below ``out``, made anew; return its folder."""
    # protobuf makes these classes when the modules are imported, and there are no stubs.
    from tensorboard.compat.proto.event_pb2 import Event  # pyright: ignore[reportAttributeAccessIssue]
    from tensorboard.compat.proto.summary_pb2 import Summary  # pyright: ignore[reportAttributeAccessIssue]
    from tensorboard.plugins.text.metadata import create_summary_metadata
    from tensorboard.summary.writer.event_file_writer import EventFileWriter
    from tensorboard.util.tensor_util import make_tensor_proto

    folder = out / FOLDER
    shutil.rmtree(folder, ignore_errors=True)
    writer = EventFileWriter(str(folder))
    for table in tables:
        metadata = create_summary_metadata(display_name=table.title, description="")
        text = make_tensor_proto([markdown(table).encode()], dtype="string")
        value = Summary.Value(tag=f"tables/{table.name}", metadata=metadata, tensor=text)
        writer.add_event(Event(step=0, summary=Summary(value=[value])))
    writer.close()
    return folder
