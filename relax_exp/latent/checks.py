"""What `Latent` and `Chain` refuse, with the shapes and what to do instead."""

from __future__ import annotations

import contextlib
import operator
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from relax_exp.distributions import FAMILIES, INDEPENDENT
from relax_exp.estimators.base import Estimator
from relax_exp.estimators.pathwise import Pathwise

IN_PLACE = "in-place operation"  # of torch.func's message where a function changes a captured tensor


def family_and_event(name: str, family: str, event_shape: tuple[int, ...]) -> None:
    """Raise ValueError for an unknown family or an event without variables."""
    if family not in INDEPENDENT:
        known = ", ".join(INDEPENDENT)
        others = [other for other in FAMILIES if other not in INDEPENDENT]
        raise ValueError(
            f"a Latent is of {known} variables, not {family}; {', '.join(others)}: "
            f"relax_exp.build({name!r}, family, event_shape), called as estimator(logits, f), returns grad and loss"
        )
    if not event_shape or min(event_shape) < 1 or (family == "categorical" and event_shape[-1] < 2):
        wanted = "end in the number of classes, at least 2" if family == "categorical" else "hold positive sizes"
        raise ValueError(f"event_shape={event_shape} of {family} variables must {wanted}, as in (20, 10)")


def offered(estimator: Estimator, name: str) -> None:
    """Raise ValueError for options that a layer cannot serve."""
    if estimator.granular:
        raise ValueError(
            f"{name} with granularity='parameter' needs to know the tensors that the logits come from, which a Latent "
            "does not: leave out granularity (one eta for the layer)"
        )


def pathwise(estimator: Estimator, name: str) -> Pathwise:
    """Return the estimator.

    Raises:
        TypeError: It has no differentiable stand-in for its sample.
    """
    if not isinstance(estimator, Pathwise):
        raise TypeError(
            f"{name} has no differentiable sample: call it with f, as loss, sample = z(logits, f), or take st_gumbel, "
            "gumbel_rao, reinmax, straight_through, concrete or gst"
        )
    return estimator


def batch_of(logits, shape: tuple[int, ...], name: str, family: str) -> tuple[int, ...]:
    """Return the batch dimensions of the logits.

    Raises:
        TypeError: They are no tensor of floats.
        ValueError: They are not logits of that shape, or have no rows.
    """
    if not isinstance(logits, Tensor) or not logits.is_floating_point():
        got = logits.dtype if isinstance(logits, Tensor) else type(logits).__name__
        raise TypeError(f"{name}: logits must be a tensor of floats or a torch.distributions object, not {got}")
    if tuple(logits.shape[logits.dim() - len(shape) :]) != shape or logits.dim() < len(shape):
        sizes = ", ".join(map(str, shape))
        hint = " (mean and log standard deviation in the last)" if family == "gaussian" else ""
        raise ValueError(
            f"{name}: logits have shape {tuple(logits.shape)}, but this Latent was made for event_shape whose logits "
            f"are (*batch, {sizes}){hint}: reshape them, or make it with another event_shape"
        )
    batch = tuple(logits.shape[: logits.dim() - len(shape)])
    if 0 in batch:
        raise ValueError(f"{name}: logits of shape {tuple(logits.shape)} have no rows; skip an empty batch")
    return batch


def same_kind(logits: Tensor, estimator: Estimator, probe: str | None, name: str) -> None:
    """Raise ValueError where the logits are not on the device, or of the precision, of the estimator's own networks.

    ``probe`` is the name of one of its parameters or buffers, of a network if there is one.
    """
    if probe is None:
        return
    own = operator.attrgetter(probe)(estimator)
    if own.device != logits.device:
        raise ValueError(
            f"{name}: logits are on {logits.device}, the parameters of this Latent on {own.device}: "
            f"call z.to({str(logits.device)!r})"
        )
    half = logits.dtype in (torch.float16, torch.bfloat16)
    if own.dim() > 0 and own.dtype != (torch.float32 if half else logits.dtype):
        raise ValueError(
            f"{name}: logits are {logits.dtype}, the parameters of this Latent {own.dtype}: call z.to(logits.dtype), "
            "or convert the logits (half precision goes with a Latent in torch.float32)"
        )


def probe(estimator: Estimator) -> str | None:
    """Return the name of the tensor that `same_kind` looks at."""
    named = [*estimator.named_parameters(), *estimator.named_buffers()]
    return max(named, key=lambda pair: pair[1].dim(), default=(None,))[0]


def rows_of(rows: Sequence[Tensor], batch: tuple[int, ...], offset: str = "logits") -> list[Tensor]:
    """Return the row tensors, ``(*batch, ...)``, as ``(n, ...)``.

    Raises:
        TypeError: One is no tensor.
        ValueError: One is not one row a row.
    """
    flat = []
    for i, row in enumerate(rows):
        if not isinstance(row, Tensor):
            raise TypeError(
                f"row tensor {i} is a {type(row).__name__}: what stands after f is repeated alongside the samples and "
                "must be a tensor with one entry a row; let f close over everything else"
            )
        if tuple(row.shape[: len(batch)]) != batch:
            raise ValueError(
                f"row tensor {i} has shape {tuple(row.shape)}, but the batch of the {offset} is {batch}: it must begin "
                "with these dimensions; let f close over what is shared by all rows"
            )
        flat.append(row.reshape(-1, *row.shape[len(batch) :]) if len(batch) != 1 else row)
    return flat


def losses_of(value, b: Tensor, name: str) -> Tensor:
    """Return what f returned, where it is one loss a row.

    Raises:
        TypeError: It is no tensor.
        ValueError: It has another shape.
    """
    if not isinstance(value, Tensor):
        raise TypeError(
            f"{name} returned a {type(value).__name__}, but losses must be a tensor ({b.shape[0]},); "
            "torch.as_tensor makes one of an array"
        )
    if value.shape != b.shape[:1]:
        raise ValueError(
            f"{name} returned losses of shape {tuple(value.shape)} for samples of shape {tuple(b.shape)}: it must "
            f"return one loss a row, ({b.shape[0]},). Sum over pixels or features, not over rows (reduction='none', "
            "then .flatten(1).sum(1)), and pass what belongs to rows after f, as z(logits, f, x): it is repeated "
            "alongside the samples"
        )
    return value


def context_of(context: Tensor | None, estimator: Estimator, batch: tuple[int, ...], name: str) -> Tensor | None:
    """Return the context as ``(n, *context_shape)``, or None where the estimator takes none.

    Raises:
        ValueError: It is missing, unexpected or of another shape.
    """
    shape = estimator.context_shape
    if shape is None:
        if context is not None:
            raise ValueError(
                f"{name}: this Latent was made without context_shape; make it with "
                f"context_shape={tuple(context.shape[len(batch) :])}, or leave out context="
            )
        return None
    if context is None:
        if next(estimator.parameters(), None) is None:
            return None
        raise ValueError(f"{name}: this Latent was made with context_shape={shape}: pass context=, {(*batch, *shape)}")
    return shaped(context, (*batch, *shape), "context").detach().reshape(-1, *shape)


def function(f, what: str) -> None:
    """Raise TypeError where something that is to be called cannot be."""
    if not callable(f):
        raise TypeError(f"{what} must be a function of samples that returns losses, not {type(f).__name__}")


def noise_of(noise: dict[str, Tensor], estimator: Estimator, n: int) -> dict[str, Tensor]:
    """Return the noise, or raise ValueError where it is not what the estimator draws for n rows."""
    wanted = estimator.noise_shapes(n)
    if set(noise) != set(wanted):
        raise ValueError(f"noise= has {', '.join(noise) or 'nothing'}, wanted {', '.join(wanted)}: take z.noise({n})")
    return {name: shaped(noise[name], shape, f"noise[{name!r}]") for name, shape in wanted.items()}


def lead_of(tensor: Tensor, shape: tuple[int, ...], what: str) -> tuple[int, ...]:
    """Return the dimensions in front of ``shape``, or raise ValueError where the tensor does not end in it."""
    if tuple(tensor.shape[tensor.dim() - len(shape) :]) != shape or tensor.dim() < len(shape):
        sizes = ", ".join(map(str, shape))
        raise ValueError(
            f"{what} has shape {tuple(tensor.shape)}, expected (*lead, {sizes}) with any dimensions in front"
        )
    return tuple(tensor.shape[: tensor.dim() - len(shape)])


def shaped(tensor: Tensor, shape: tuple[int, ...], what: str) -> Tensor:
    """Return the tensor, or raise ValueError where it has another shape."""
    if tuple(tensor.shape) != shape:
        raise ValueError(f"{what} has shape {tuple(tensor.shape)}, expected {shape}")
    return tensor


@contextlib.contextmanager
def explained(name: str) -> Iterator[None]:
    """Raise torch.func's error about in-place state inside f as one that says what to do."""
    try:
        yield
    except RuntimeError as error:
        if IN_PLACE not in str(error):
            raise
        raise RuntimeError(
            f"{name} differentiates f, and f changes state in place (BatchNorm's running statistics?), which "
            "torch.func does not allow. Use GroupNorm, LayerNorm or track_running_stats=False, put that module into "
            "eval(), or take an estimator that needs values of f only, such as rloo, disarm or relax with "
            "surrogate='network'"
        ) from error


def write_buffers(estimator: Estimator, values: dict[str, Tensor], name: str) -> None:
    """Write new values into the estimator's buffers.

    Raises:
        RuntimeError: This is inside a transform of torch.func, which forbids it.
    """
    if not values:
        return
    try:
        with torch.no_grad():
            for key, buffer in estimator.named_buffers():
                if key in values:
                    buffer.copy_(values[key])
    except RuntimeError as error:
        raise RuntimeError(
            f"{name} keeps running statistics, which cannot be written inside torch.func: call z.eval() there, and "
            "in train() mode outside"
        ) from error


def as_many(given: Sequence, layers: Sequence, what: str) -> None:
    """Raise ValueError unless there is one for each layer."""
    if isinstance(given, Tensor) or callable(given) or len(given) != len(layers):
        count = len(given) if hasattr(given, "__len__") else f"one {type(given).__name__}"
        raise ValueError(f"{what} must be a list with one entry for each of the {len(layers)} layers, not {count}")


def one_a_row(batch: tuple[int, ...], rows: int, what: str) -> None:
    """Raise ValueError where an encoder did not return one row a row."""
    if batch != (rows,):
        raise ValueError(f"{what} returned logits with the batch {batch} for {rows} rows; it must act row by row")


def has_context(estimator: Estimator, make, name: str) -> None:
    """Raise ValueError where a layer of a chain was made for a context and gets none, or the other way round."""
    if make is None and next(estimator.parameters(), None) is None:
        return
    if (estimator.context_shape is None) != (make is None):
        was = "without" if estimator.context_shape is None else "with"
        raise ValueError(f"{name}: the Latent was made {was} context_shape; contexts must say the same for this layer")
