"""Leave out thebe, which runs cells on a remote kernel: the book does not offer that, and its script stands in every
page twice, which is an error in the browser."""

from __future__ import annotations

from typing import Any


def _disconnect(app: Any) -> None:
    for listener in list(app.events.listeners["env-before-read-docs"]):
        if getattr(listener.handler, "__name__", "") == "init_thebe_core":
            app.disconnect(listener.id)


def setup(app: Any) -> dict[str, Any]:
    app.connect("builder-inited", _disconnect)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
