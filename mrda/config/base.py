# SPDX-License-Identifier: Apache-2.0
"""Base class of the configuration's sections, and the types of their fields."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import is_dataclass
from typing import Annotated, Any, Literal, get_type_hints

from pydantic import BaseModel, ConfigDict, Field

from mrda.core.checks import Int

Count = Annotated[Int, Field(ge=0)]
PositiveInt = Annotated[Int, Field(gt=0)]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]

StageName = Literal["bicubic", "meta", "teacher", "student"]
STAGES: tuple[StageName, ...] = ("bicubic", "meta", "teacher", "student")


class Section(BaseModel):
    """A group of options; unknown keys are errors, and values do not change after validation.

    A section whose options a component declares is the frozen dataclass of that component instead, or one derived from
    it; pydantic validates it by the rules of the section that holds it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


def option_paths(section: type, prefix: str = "") -> Iterator[str]:
    """Yield the dotted paths of all options of a section (a `Section` or a dataclass), and of the sections in it."""
    for name, annotation in _annotations(section).items():
        yield prefix + name
        if isinstance(annotation, type) and (issubclass(annotation, Section) or is_dataclass(annotation)):
            yield from option_paths(annotation, f"{prefix}{name}.")


def _annotations(section: type) -> dict[str, Any]:
    if issubclass(section, Section):
        return {name: field.annotation for name, field in section.model_fields.items()}
    return get_type_hints(section)
