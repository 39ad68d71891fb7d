# SPDX-License-Identifier: Apache-2.0
"""Base class of the options of networks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal, Self, TypeVar, get_args, get_origin, get_type_hints

from mrda.core.checks import check_choice, check_int

Chosen = TypeVar("Chosen", bound="Options")


@dataclass(frozen=True, kw_only=True)
class Options:
    """Base class of the options of a network: an integer is at least 1, a literal one of its values.

    Raises:
        TypeError: A number is not an int.
        ValueError: A value is out of its range.
    """

    def __post_init__(self) -> None:
        hints = get_type_hints(type(self))
        for name, kind in ((field.name, hints[field.name]) for field in fields(self)):
            value = getattr(self, name)
            if kind is int or (get_origin(kind) is Literal and isinstance(get_args(kind)[0], int)):
                check_int(name, value)
            if get_origin(kind) is Literal:
                check_choice(name, value, get_args(kind))

    @classmethod
    def chosen(cls, options: Self | None, changes: Mapping[str, Any]) -> Self:
        """Return ``options``, or the defaults, with ``changes`` made."""
        return cls(**changes) if options is None else replace(options, **changes)

    def part(self, kind: type[Chosen]) -> Chosen:
        """Return those of these options that ``kind``, a base class, has."""
        return kind(**{field.name: getattr(self, field.name) for field in fields(kind)})

    def as_dict(self) -> dict[str, Any]:
        """Return the keyword arguments, fit for JSON."""
        return asdict(self)
