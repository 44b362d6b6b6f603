"""What a parameter may be, said once for every spec."""

from unlearning.errors import InvalidSpec

MOST = 1_000_000
"""Steps, epochs, samples a batch: more than this is a slip."""


def require(condition: bool, name: str, rule: str, value: object) -> None:
    """Raise InvalidSpec, with the field `name`, unless the condition holds."""
    if not condition:
        raise InvalidSpec(f"{name} is {value!r}; it must be {rule}.", field=name)


def check_loop(steps: int, learning_rate: float, batch_size: int) -> None:
    """The ranges of a method that takes a number of steps."""
    require(1 <= steps <= MOST, "steps", f"between 1 and {MOST:,}", steps)
    check_rate(learning_rate, batch_size)


def check_epochs(epochs: int, learning_rate: float, batch_size: int) -> None:
    """The ranges of a method that goes through its data a number of times."""
    require(1 <= epochs <= MOST, "epochs", f"between 1 and {MOST:,}", epochs)
    check_rate(learning_rate, batch_size)


def check_rate(learning_rate: float, batch_size: int) -> None:
    """The ranges of what every descent has."""
    require(0 < learning_rate <= 100, "learning_rate", "above 0 and at most 100", learning_rate)
    require(1 <= batch_size <= MOST, "batch_size", f"between 1 and {MOST:,}", batch_size)
