# SPDX-License-Identifier: Apache-2.0
"""Durations as people say them."""


def in_words(seconds: float) -> str:
    """Say a duration as people do: "40 seconds", "3 minutes", "2.5 hours", "3 days"."""
    for unit, length in (("second", 1), ("minute", 60), ("hour", 3600), ("day", 86400)):
        number = max(0.0, seconds) / length
        if unit == "day" or number < {"second": 99.5, "minute": 99.5, "hour": 47.5}[unit]:
            break
    text = f"{number:.1f}" if unit in ("hour", "day") and number < 9.95 else f"{number:.0f}"
    text = text.removesuffix(".0")
    return f"{text} {unit}{'s' * (text != '1')}"
