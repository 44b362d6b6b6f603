"""The ranges that the parameters of several specs share."""

from unlearning.errors import InvalidSpec

MAX_COUNT = 1_000_000
"""Of steps, epochs and samples a batch: more is a slip."""


def require(condition: bool, name: str, rule: str, value: object) -> None:
    """Raise InvalidSpec for the field `name` unless the condition holds."""
    if not condition:
        raise InvalidSpec(f"{name} is {value!r}; it must be {rule}.", field=name)


def check_loop(steps: int, learning_rate: float, batch_size: int) -> None:
    """Check the parameters of a method that takes a number of steps. Raises InvalidSpec."""
    require(1 <= steps <= MAX_COUNT, "steps", f"between 1 and {MAX_COUNT:,}", steps)
    check_rate(learning_rate, batch_size)


def check_epochs(epochs: int, learning_rate: float, batch_size: int) -> None:
    """Check the parameters of a method that trains for a number of epochs. Raises InvalidSpec."""
    require(1 <= epochs <= MAX_COUNT, "epochs", f"between 1 and {MAX_COUNT:,}", epochs)
    check_rate(learning_rate, batch_size)


def check_rate(learning_rate: float, batch_size: int) -> None:
    """Check the learning rate and the batch size. Raises InvalidSpec."""
    require(0 < learning_rate <= 100, "learning_rate", "above 0 and at most 100", learning_rate)
    require(1 <= batch_size <= MAX_COUNT, "batch_size", f"between 1 and {MAX_COUNT:,}", batch_size)
