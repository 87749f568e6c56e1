"""Checks of values that come from outside. Code behind them assumes valid input."""

from __future__ import annotations

from typing import Any

from nab.errors import ConfigError


def check_range(
    name: str,
    value: Any,
    low: float,
    high: float,
    *,
    include_low: bool = True,
    include_high: bool = True,
) -> None:
    """Raise ``ConfigError`` unless ``value`` is a number in the interval from ``low`` to ``high``."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    inside = is_number and (
        (low <= value if include_low else low < value) and (value <= high if include_high else value < high)
    )
    if not inside:
        interval = f"{'[' if include_low else '('}{low:g}, {high:g}{']' if include_high else ')'}"
        raise ConfigError(f"expected {name} in {interval}, got {value!r}")


def check_positive(name: str, value: Any) -> None:
    """Raise ``ConfigError`` unless ``value`` is a whole number of at least 1."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ConfigError(f"expected {name} to be a whole number of at least 1, got {value!r}")


def check_count(name: str, value: Any) -> None:
    """Raise ``ConfigError`` unless ``value`` is a whole number of at least 0."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ConfigError(f"expected {name} to be a whole number of at least 0, got {value!r}")


def check_choice(name: str, value: Any, choices: tuple[str, ...]) -> None:
    """Raise ``ConfigError`` unless ``value`` is one of ``choices``."""
    if value not in choices:
        raise ConfigError(f"expected {name} to be one of {', '.join(choices)}, got {value!r}")


def check_whole(name: str, value: Any, low: int, high: int) -> None:
    """Raise ``ConfigError`` unless ``value`` is a whole number from ``low`` to ``high``."""
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise ConfigError(f"expected {name} to be a whole number from {low:,} to {high:,}, got {value!r}")


def check_kind(name: str, value: object, kind: type, example: str) -> None:
    """Raise ``ConfigError`` unless ``value`` is a ``kind``; ``example`` shows one."""
    if not isinstance(value, kind):
        shown = repr(value) if isinstance(value, str | int | float | type) else type(value).__name__
        raise ConfigError(f"expected {name} as a {kind.__name__}, such as {example}, got {shown}")
