"""Tables of the benchmarks, written into their page."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

README = Path(__file__).parent / "README.md"


def put(begin: str, table: str, end: str) -> None:
    """Put a table between two marks of the page, in the place of what is there."""
    text = f"{begin}\n{table}\n{end}"
    README.write_text(re.sub(f"{begin}.*{end}", lambda _: text, README.read_text(), flags=re.DOTALL))


def measured_on(found: Mapping[str, Any], more: str = "") -> str:
    """A line on torch and the machine, of what ``environment`` tells."""
    machine = found["machine"]
    return f"torch {found['versions']['torch']}, {machine['cpu']}, {machine['threads']} threads{more}."
