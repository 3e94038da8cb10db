"""The published schema is the one that reports have."""

import json
from pathlib import Path

from deepport.conformance import result


def test_the_schema_file_is_current() -> None:
    """After a change: python -m deepport.conformance.result > deepport/conformance/schema.json, and a new version where old
    reports can no longer be read."""
    published = Path(result.__file__).with_name("schema.json")
    assert json.loads(published.read_text()) == result.Report.model_json_schema()
