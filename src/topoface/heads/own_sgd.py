"""Class centers that move themselves: in backward, block by block, or those drawn in a step alone, the others caught up later."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import astuple
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from topoface.errors import UserError
from topoface.functional.blocked_softmax import DrawnRows, stand_in_for
from topoface.functional.center_sgd import SGDStep, catch_up, move_block, move_rows
from topoface.functional.collectives import sum_over_ranks, world_size
from topoface.functional.placement import held, is_cut
from topoface.recipe import OptimizerConfig

Unsampled = Literal["caught_up", "untouched"]
WINDOW = 512  # steps after which all rows are caught up: the products of longer stretches need not be kept


class OwnSGD(nn.Module):
    """SGD with momentum over a table of class centers, beside torch's optimizer.

    State for a resume: momentum, the step of the window that each row is at, and what the steps of the window were.

    Args:
        weight: class centers ``[C, D]``, cut over the ranks or not; needs no gradient.
        unsampled: what becomes of rows that are not drawn: ``caught_up``: when drawn next, weight decay and momentum of the steps between, which makes
            it dense SGD exactly; ``untouched``: nothing at all.
    """

    def __init__(self, weight: nn.Parameter, unsampled: Unsampled) -> None:
        super().__init__()
        self.unsampled = unsampled
        self._weight = [weight]  # belongs to the head; a list keeps it from being registered here
        self.momentum: Tensor
        self.moved: Tensor
        self.window: Tensor
        self.register_buffer("momentum", torch.zeros_like(weight.detach()))
        self.register_buffer("moved", torch.zeros_like(weight.detach()[:, 0], dtype=torch.int32))
        self.register_buffer("window", torch.full((WINDOW, 4), torch.nan, dtype=torch.float64))
        self._config = OptimizerConfig(name="sgd")
        self._lr = 0.0
        self._still = False
        self._factors = np.eye(2)[
            None
        ]  # [steps made + 1, 2, 2]: what a row has missed, by the step that it is at
        self._taken: list[tuple[Tensor, Tensor]] = []
        self.register_load_state_dict_post_hook(_recall)  # type: ignore[no-untyped-call]

    @property
    def weight(self) -> Tensor:
        """The rows that lie here."""
        return held(self._weight[0]).detach()

    def adopt(self, config: OptimizerConfig) -> None:
        """Move as the recipe's optimizer would.

        Raises:
            UserError: it cannot be done row by row.
        """
        if config.name != "sgd":
            raise UserError(
                f"is {config.name}, and class centers that are drawn or fused move by SGD",
                "optimizer.name",
                "use sgd, or a head with rate 1 and without fused",
            )
        if config.clip_head and config.clip_norm is not None:
            raise UserError(
                "needs the gradient of all class centers before any moves",
                "optimizer.clip_head",
                "set it to false, or use a head with rate 1 and without fused",
            )
        self._config = config

    def begin(self, lr: float) -> None:
        """A step begins, with this learning rate."""
        self._lr = lr
        self._taken.clear()

    @property
    def _step(self) -> SGDStep:
        config = self._config
        return SGDStep(
            lr=self._lr, momentum=config.momentum, decay=config.weight_decay, nesterov=config.nesterov
        )

    # --- in backward -----------------------------------------------------------------------------------

    @contextmanager
    def still(self) -> Iterator[None]:
        """Inside, backward moves nothing: it is not the one of the step."""
        self._still = True
        try:
            yield
        finally:
            self._still = False

    @torch.no_grad()
    def move_in_backward(self, start: int, change: Tensor, inverse: Tensor) -> None:
        """The sink of :func:`topoface.functional.blocked_softmax.class_part`."""
        if self._still:
            return
        if is_cut(self._weight[0]):
            change /= world_size()  # all ranks' losses, where their mean moves a parameter
        part = slice(start, start + len(change))
        move_block(self.weight[part], held(self.momentum)[part], change, inverse, self._step)

    # --- of rows that are drawn ------------------------------------------------------------------------

    def rows(self, chosen: Tensor) -> DrawnRows:
        """Chosen rows, brought to the present; their gradient is what moves them in :meth:`finish`.

        Args:
            chosen: int64 ``[m]``, positions on this rank, each once.
        """
        self._catch_up(chosen)
        stand_in = stand_in_for(self.weight, chosen)
        if torch.is_grad_enabled():
            self._taken.append((chosen, stand_in.requires_grad_()))
        return DrawnRows(table=self.weight, chosen=chosen, stand_in=stand_in)

    @torch.no_grad()
    def _catch_up(self, chosen: Tensor) -> None:
        if self.unsampled == "caught_up":
            factors = torch.from_numpy(self._factors.reshape(-1, 4))
            made = len(factors) - 1
            catch_up(self.weight, held(self.momentum), held(self.moved), chosen, factors, made)

    def catch_up_all(self) -> None:
        """Bring every row to the present."""
        for part in torch.split(torch.arange(len(self.weight), device=self.weight.device), 2**16):
            self._catch_up(part)

    def gradient_norm(self) -> Tensor:
        """Of the rows drawn in this step, over all ranks."""
        _, gradient = self._merged()
        return sum_over_ranks(gradient.square().sum()).sqrt()

    def _merged(self) -> tuple[Tensor, Tensor]:
        """Rows drawn in the micro-batches of this step, each once, and their gradients summed."""
        if not self._taken:
            return self.moved.new_empty(0, dtype=torch.int64), self.weight[:0]
        gradients = [torch.zeros_like(rows) if rows.grad is None else rows.grad for _, rows in self._taken]
        if len(gradients) == 1:
            return self._taken[0][0], gradients[0]
        chosen, place = torch.unique(torch.cat([chosen for chosen, _ in self._taken]), return_inverse=True)
        total = gradients[0].new_zeros(len(chosen), gradients[0].shape[1])
        return chosen, total.index_add_(0, place, torch.cat(gradients))

    @torch.no_grad()
    def finish(self) -> None:
        """Move the rows drawn; those that the step leaves are now one step behind."""
        chosen, gradient = self._merged()
        step = self._step
        move_rows(self.weight, held(self.momentum), chosen, gradient, step)
        self._taken.clear()
        if self.unsampled == "untouched":
            return
        made = len(self._factors)
        held(self.moved)[chosen] = made
        self.window[made - 1] = torch.tensor(astuple(step), dtype=torch.float64)
        self._miss(step)
        if made == WINDOW:
            self.catch_up_all()
            held(self.moved).zero_()
            self.window.fill_(torch.nan)
            self._factors = np.eye(2)[None]

    def _miss(self, step: SGDStep) -> None:
        """One more step that rows may have missed."""
        self._factors = np.concatenate([step.without_gradient() @ self._factors, np.eye(2)[None]])


def _recall(module: nn.Module, _: object) -> None:
    """After a resume: the products, from the steps as they were made, whatever the recipe says now."""
    assert isinstance(module, OwnSGD)
    module._factors = np.eye(2)[None]
    for lr, momentum, decay, nesterov in module.window[~module.window[:, 0].isnan()].tolist():
        module._miss(SGDStep(lr=lr, momentum=momentum, decay=decay, nesterov=bool(nesterov)))
