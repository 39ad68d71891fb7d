# SPDX-License-Identifier: Apache-2.0
"""Base class of networks that are built from options."""

from __future__ import annotations

from typing import Any

from torch import nn

from mrda.options.base import Options


class Configured(nn.Module):
    """Base class of networks that are built from options.

    Their constructors take ``options``, None for the defaults, and options by name, which replace those of ``options``.
    They raise TypeError for an option that is unknown or not of its type, and ValueError for one that is out of its
    range or does not go with another.
    """

    options: Options

    @property
    def hyperparameters(self) -> dict[str, Any]:
        """The keyword arguments, fit for JSON, that build this network again."""
        return self.options.as_dict()
