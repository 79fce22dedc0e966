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
    hardware: str = "two cores, AMD EPYC Zen 5",
) -> Expected:
    """A result, by default on the machine that has made our first records.

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
        hardware=hardware,
        record=f"benchmarks/records/{record}",
    )
