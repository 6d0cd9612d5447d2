"""x"""


def doctor() -> None:
    """Say what this machine has for training, what is wrong and how to mend it."""
