"""A directory of results: one JSON file per finished cell, each whole or not there."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from eval.experiment.outcome import FORMAT


class StoreError(ValueError):
    """A directory or file of results that cannot be read; the message names it and what is accepted."""


def write_atomically(path: Path, text: str) -> None:
    """So that a reader sees the old file, the new one, or none, also after a crash."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with partial.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


class Store:
    """The files of one directory. A file is known by the key inside it, whatever its name."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def save(self, file_name: str, document: dict[str, Any]) -> Path:
        """Writes one document; the directory is made if it is not there."""
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / file_name
        write_atomically(path, json.dumps(document, separators=(",", ":")) + "\n")
        return path

    def read(self) -> list[dict[str, Any]]:
        """Every document, in the order of the experiment that made it, then by name.

        Raises:
            StoreError: no directory, a file that is none of ours, or of another format.
        """
        if not self.folder.is_dir():
            raise StoreError(f"{self.folder}: no such directory; accepted: one that bench run wrote")
        found = [self._document(path) for path in sorted(self.folder.glob("*.json"))]
        return sorted(found, key=lambda document: (document.get("experiment", {}).get("place", 0), document["label"]))

    def finished(self) -> set[str]:
        """Keys of what is there already; empty where there is no directory yet. Raises StoreError."""
        return {document["key"] for document in self.read()} if self.folder.is_dir() else set()

    def _document(self, path: Path) -> dict[str, Any]:
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise StoreError(f"{path}: cannot be read: {error}; accepted: a file that bench run wrote") from error
        if not isinstance(document, dict) or document.get("format") != FORMAT:
            found = document.get("format") if isinstance(document, dict) else type(document).__name__
            raise StoreError(f"{path}: format: {found!r}; accepted: {FORMAT}")
        return document
