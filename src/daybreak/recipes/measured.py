"""How a recipe states what it has reached. A test holds each statement equal to its record."""

from daybreak.core.config import Expected


def measured(
    accuracy: float,
    train_seconds: float,
    record: str,
    *,
    n: int = 1,
    std: float | None = None,
    epochs: int | None = None,
    dataset: str = "CIFAR-10 (JPEG q75)",
) -> Expected:
    """A result on the machine that has made all our records so far.

    Args:
        accuracy, train_seconds: means over the runs.
        record: the folder's name below benchmarks/records.
        n: the number of runs.
        std: the sample standard deviation of their accuracies.
    """
    return Expected(
        accuracy=accuracy,
        std=std,
        n=n,
        epochs=epochs,
        train_seconds=train_seconds,
        dataset=dataset,
        hardware="two cores, AMD EPYC Zen 5",
        record=f"benchmarks/records/{record}",
    )
