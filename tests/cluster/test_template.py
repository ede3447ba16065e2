"""The commented template: it is whole. Run: pytest tests/cluster/test_template.py."""

import re
from collections.abc import Iterator
from typing import Any, get_args

import pytest
from pydantic import BaseModel

from hpcllm.cluster.known import Known
from hpcllm.cluster.measured import Measured
from hpcllm.cluster.profile import Profile, shipped_profiles
from hpcllm.units import yaml_key

TEMPLATE = (shipped_profiles() / "template.yaml").read_text()


def records_in(annotation: Any) -> Iterator[type[BaseModel]]:
    """Every record that a type is made of."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from records_in(part)


def parts_of(record: type[BaseModel], known: set[type[BaseModel]]) -> set[type[BaseModel]]:
    """A record and those inside it, without what a probe writes."""
    if record in known or record is Measured:
        return known
    known.add(record)
    for field in record.model_fields.values():
        for part in records_in(field.annotation):
            parts_of(part, known)
    return known


@pytest.mark.parametrize("record", sorted(parts_of(Profile, set()), key=str), ids=lambda record: record.__name__)
def test_every_field_of_a_profile_is_explained_in_the_template(record: type[Known]) -> None:
    keys = {field.alias or yaml_key(name) for name, field in record.model_fields.items()}

    missing = {key for key in keys if not re.search(rf"(^|[\s{{#]){key}:", TEMPLATE)}

    assert not missing
