"""Regression: one number or several a sample."""

from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional

from unlearning.data.batches import Batch, Inputs
from unlearning.data.objectives.objective import Forward, Objective, call, columns
from unlearning.data.objectives.prediction import Answers, Merit, Prediction
from unlearning.data.objectives.targets import numbers
from unlearning.errors import InvalidWorkload, UnsupportedWorkload

_CEILING = 2.0
"""Nats: the loss of an error of two `scale`."""
_GAP = 0.1
"""Nats: the loss of an error of 0.45 `scale`."""
_BAND, _BANDS = 0.25, 32
"""The width of a band in `scale`, and the number of bands, in which predictions are compared."""


def regression(
    outputs: int = 1, *, scale: float | None = None, huber: float | None = None, spread: bool = False
) -> Objective:
    """Make the objective of a model that predicts `outputs` numbers, (n, outputs) or (n,) for one, in the units of the targets.

    The loss is half the squared error in units of `scale`, the mean over the outputs: minus the logarithm of a normal density, but
    for its constant. scale: by default the standard deviation of each output's held-out targets; with 1 the loss is in the
    targets' own units. huber: from an error of so many `scale` on, the loss is linear. spread: how the model takes its inputs, see
    `call`.

    The merit is the explained variance in percent, R² against the held-out mean: 100 is perfect, 0 as good as always saying the
    mean, and a set's is given as −100 at the least. Raises UnsupportedWorkload for no output, or a scale or bound that is not
    positive; and later for predictions of another shape.
    """
    if outputs < 1:
        raise UnsupportedWorkload(f"regression({outputs}) leaves nothing to predict.")
    for name, value in (("scale", scale), ("huber", huber)):
        if value is not None and not 0 < value < float("inf"):
            raise UnsupportedWorkload(f"{name} must be a positive number, not {value}.")

    def fit(targets: Tensor) -> Objective:
        mean, deviation = targets.double().mean(0), targets.double().std(0, correction=0)
        if not bool((deviation > 0).all()):
            raise InvalidWorkload(
                "The held-out targets of an output are all equal, so nothing tells how much targets vary. Hold out more samples."
            )
        used = deviation if scale is None else torch.full_like(deviation, scale)
        return _regression(mean, deviation, used, huber=huber, spread=spread)

    one = torch.ones(outputs, dtype=torch.float64)
    unknown = _regression(torch.zeros_like(one), one, one * (scale or 1.0), huber=huber, spread=spread)
    return replace(unknown, fit=fit)


def _regression(mean: Tensor, deviation: Tensor, scale: Tensor, *, huber: float | None, spread: bool) -> Objective:
    """Make the objective for held-out targets of this mean and standard deviation, with losses in units of `scale`, (k,) each."""
    count = len(mean)

    def outputs(forward: Forward, inputs: Inputs) -> Tensor:
        return columns(call(forward, inputs, spread=spread), count, of=f"regression({count})")

    def errors(values: Tensor, targets: Tensor) -> Tensor:
        return (values - targets.to(values)) / scale.to(values)

    def loss(values: Tensor, targets: Tensor) -> Tensor:
        error = errors(values, targets)
        if huber is None:
            return (error**2).mean(-1) / 2
        return functional.huber_loss(error, torch.zeros_like(error), reduction="none", delta=huber).mean(-1)

    def scramble(batch: Batch, generator: torch.Generator) -> Batch:
        """Draw targets from a normal law with the mean and the standard deviation of the held-out targets."""
        noise = torch.randn(batch.targets.shape, generator=generator, dtype=torch.float64)
        return Batch(batch.inputs, (mean + deviation * noise).to(batch.targets))

    def in_deviations(values: Tensor, targets: Tensor) -> Tensor:
        """Compute the mean squared error in standard deviations of the held-out targets, (n,)."""
        return (((values - targets.to(values)) / deviation.to(values)) ** 2).mean(-1)

    def known(values: Tensor, targets: Tensor) -> Tensor:
        """Compute minus the root mean squared error in deviations, (n,): squares alone would be spread too unevenly."""
        return -(in_deviations(values, targets) + 1e-12).sqrt()

    def explained(found: Answers) -> Tensor:
        assert found.outputs is not None
        return 100 - 100 * in_deviations(found.outputs, found.targets)

    def both(values: Tensor, targets: Tensor) -> Tensor:
        """Return prediction and target, in deviations from the mean, (n, 2k)."""
        pairs = [(part - mean.to(values)) / deviation.to(values) for part in (values, targets.to(values))]
        return torch.cat(pairs, -1)

    def distributions(values: Tensor) -> Tensor:
        """Return the normal law around each value with the deviation `scale`, in bands, (n·k, bands)."""
        edges = (torch.arange(1, _BANDS, dtype=torch.float64) - _BANDS / 2) * _BAND
        standard = ((values.double() - mean.to(values.device)) / scale.to(values.device)).flatten()
        below = torch.special.ndtr(edges.to(values.device) - standard[:, None])
        ends = [torch.zeros_like(below[:, :1]), below, torch.ones_like(below[:, :1])]
        return torch.cat(ends, -1).diff(dim=-1)

    def likeness(targets: Tensor, others: Tensor) -> Tensor:
        return -torch.cdist(targets / scale.to(targets), others / scale.to(others))

    return Objective(
        losses=lambda forward, batch: loss(outputs(forward, batch.inputs), batch.targets),
        scramble=scramble,
        merit=Merit(name="explained variance", complement="unexplained variance", of=explained, bounds=(-100.0, 100.0)),
        outputs=outputs,
        prediction=Prediction(
            predictions=lambda values: values,
            divergences=lambda aim, values, temperature: (errors(values, aim) ** 2).mean(-1) / 2,
            losses=loss,
            known=known,
            guess=lambda targets: targets.double().mean(0, keepdim=True),
            distributions=distributions,
            likeness=likeness,
            unit="standard deviations of the targets",
            features=(lambda values, targets: errors(values, targets).abs(), both),
            answered=lambda values: values,
        ),
        targets=lambda targets, name: numbers(targets, outputs=count, name=name),
        ceiling=_CEILING,
        curvature=float((scale**-2).max()) / count,
        gap=_GAP,
    )
