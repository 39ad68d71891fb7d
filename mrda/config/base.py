"""What all sections of the configuration are made of: their base class and the types of their fields."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field


def _no_bool(value: object) -> object:
    """YAML's ``yes`` and ``true`` are no numbers, though Python counts with them."""
    if isinstance(value, bool):
        raise ValueError(f"must be an integer, it was {value}")
    return value


NoBool = BeforeValidator(_no_bool)
Int = Annotated[int, NoBool]
Count = Annotated[Int, Field(ge=0)]
PositiveInt = Annotated[Int, Field(gt=0)]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Angle = Annotated[float, Field(allow_inf_nan=False)]
Range = tuple[Weight, Weight]

StageName = Literal["bicubic", "meta", "teacher", "student"]
STAGES: tuple[StageName, ...] = ("bicubic", "meta", "teacher", "student")


class Section(BaseModel):
    """A group of options; unknown keys are errors and values do not change after validation."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)
