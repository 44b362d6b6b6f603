"""One thread: the networks here are too small to gain from more. And guide attacks that are trained at once."""

import pytest
import torch

from unlearning.methods.ltu import guide_attacks


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def hasty_guides(monkeypatch: pytest.MonkeyPatch) -> None:
    """Train LTU's guide attacks for ten epochs, not two hundred, and let all take part, whatever they have learned.

    For tests of LTU's steps. How well guide attacks learn is what test_guide_attacks.py tests.
    """
    monkeypatch.setattr(guide_attacks, "_EPOCHS", 10)
    monkeypatch.setattr(guide_attacks, "_BEATS_CHANCE", 0.0)
