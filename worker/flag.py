"""What a signal handler may set."""

from dataclasses import dataclass


@dataclass(slots=True)
class Flag:
    """One boolean, and no lock.

    A `threading.Event` has one: a second signal that comes while the handler of the first holds it would wait for it forever,
    in the same thread.
    """

    is_set: bool = False

    def set(self) -> None:
        """Set it, from anywhere."""
        self.is_set = True
