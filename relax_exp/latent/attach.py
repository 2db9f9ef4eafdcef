"""Losses that carry estimates and tuning gradients in their autograd graph."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.func import grad

from relax_exp.estimators.base import Estimator, Output

Tuning = dict[int, dict[str, Tensor]]  # by layer and name
Outputs = Callable[[Tuning | None], tuple[Tensor, dict[int, Output]]]
Pairs = list[tuple[Tensor, Tensor]]  # parameters with their gradients

REFUSED = (
    "an estimate of a gradient has no derivative of its own: leave out create_graph=True or the outer transform, and "
    "compute a penalty on gradients outside the losses of a Latent"
)

# Whether a transform of torch.func is active; taken for granted where torch does not tell, as is right, but slower.
_transformed = getattr(torch._C, "_are_functorch_transforms_active", lambda: True)


class Attach(torch.autograd.Function):
    """Losses whose derivative in the logits is an estimate, and in the tuning parameters a gradient given beforehand.

    Its arguments are the losses ``(n,)``; for each layer the number of dimensions of one row's logits; logits of all
    layers and tuning parameters; in the same order their gradients. A loss's cotangent multiplies the estimates of its
    row; tuning gradients are handed on as they are, whatever the losses are multiplied with.
    """

    @staticmethod
    def forward(ctx, losses: Tensor, dims: tuple[int, ...], *tensors: Tensor) -> Tensor:
        """Return the losses as they are."""
        ctx.dims = dims
        ctx.save_for_backward(*tensors[len(tensors) // 2 :])
        return losses.clone()

    @staticmethod
    def backward(ctx, cotangent: Tensor):
        """Multiply the kept gradients with that of each row's loss.

        Raises:
            RuntimeError: A second derivative is asked for.
        """
        if torch.is_grad_enabled() and not _transformed() and not torch.compiler.is_compiling():
            raise RuntimeError(REFUSED)
        return handed_on(cotangent, ctx.dims, ctx.saved_tensors)


def handed_on(cotangent: Tensor, dims: tuple[int, ...], grads: Sequence[Tensor]) -> tuple[Tensor | None, ...]:
    """Return what `Attach` gives its arguments, from what the losses got."""
    layers = len(dims)
    logits = [cotangent.reshape(-1, *[1] * d) * g for g, d in zip(grads[:layers], dims, strict=True)]
    return cotangent, None, *logits, *grads[layers:], *[None] * len(grads)


class AttachTransformed(Attach):
    """`Attach` as torch.func's transforms want it, at the price of an inspected signature at every call.

    A transform does not tell whether another differentiates what it returns, so second derivatives are refused where
    they are taken, see `Constant`.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(losses: Tensor, dims: tuple[int, ...], *tensors: Tensor) -> Tensor:
        """Return the losses as they are."""
        return losses.clone()

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        """Keep the tensors for `backward`."""
        _, ctx.dims, *tensors = inputs
        ctx.save_for_backward(*tensors)

    @staticmethod
    def backward(ctx, cotangent: Tensor):
        """Multiply the kept gradients, which must not be differentiated, with that of each row's loss."""
        half = len(ctx.saved_tensors) // 2
        targets, grads = ctx.saved_tensors[:half], ctx.saved_tensors[half:]
        if not torch.compiler.is_compiling():
            grads = [Constant.apply(g, target) for g, target in zip(grads, targets, strict=True)]
        return handed_on(cotangent, ctx.dims, grads)

    @staticmethod
    def jvp(ctx, *tangents):
        """Refuse forward mode.

        Raises:
            RuntimeError: Always.
        """
        raise RuntimeError(
            "the losses of a Latent have no forward-mode derivative: take torch.func.grad, vjp or jacrev, and no "
            "second derivative"
        )


class Constant(torch.autograd.Function):
    """A gradient that belongs to a tensor and is no function of it that could be differentiated."""

    generate_vmap_rule = True

    @staticmethod
    def forward(gradient: Tensor, of: Tensor) -> Tensor:
        """Return the gradient."""
        return gradient.clone()

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        """Keep nothing."""

    @staticmethod
    def backward(ctx, cotangent: Tensor):
        """Refuse the derivative of the gradient.

        Raises:
            RuntimeError: Always.
        """
        raise RuntimeError(REFUSED)


def attach(
    losses: Tensor, estimators: Sequence[Estimator], logits: list[Tensor], outs: dict[int, Output], tuning: Pairs
) -> Tensor:
    """Return the losses with the estimates ``outs`` and the ``tuning`` gradients in their graph, see `Attach`."""
    dims = tuple(len(estimators[i].family.parameter_shape(estimators[i].event_shape)) for i in outs)
    targets = [*(logits[i] for i in outs), *(p for p, _ in tuning)]
    given = [*(out.grad.detach() for out in outs.values()), *(g for _, g in tuning)]
    transformed = not torch.compiler.is_compiling() and _transformed()
    return (AttachTransformed if transformed else Attach).apply(losses, dims, *targets, *given)


def tuned(
    estimators: Sequence[Estimator], outputs: Outputs, drawn: list[int], tune: bool, direct: bool = False
) -> tuple[Pairs, dict[int, Output]]:
    """Return the tuning parameters with their gradients, and the outputs of the layers in ``drawn``.

    ``outputs`` maps tuning parameters to the tuning loss and the outputs; None stands for the parameters as they are.
    With ``direct`` the outputs' losses keep their graph.
    """
    owned = {i: {k: p for k, p in estimators[i].named_parameters() if p.requires_grad} for i in drawn} if tune else {}
    pairs = [(i, k, p) for i, own in owned.items() for k, p in own.items()]
    if not pairs:
        with torch.set_grad_enabled(direct):
            return [], outputs(None)[1]
    if torch.compiler.is_compiling() or _transformed():
        with torch.set_grad_enabled(direct):
            found, outs = grad(outputs, has_aux=True)({i: {k: p.detach() for k, p in owned[i].items()} for i in owned})
        return [(p, found[i][k]) for i, k, p in pairs], outs
    # The same by ordinary autograd, which torch.func cannot contain and torch.compile not trace: a third faster.
    total, outs = outputs(None)
    gradients = torch.autograd.grad(total, [p for _, _, p in pairs], retain_graph=direct, materialize_grads=True)
    return [(p, g) for (_, _, p), g in zip(pairs, gradients, strict=True)], outs
