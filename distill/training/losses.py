"""The loss of the answers, with the output layer run on answer tokens alone.

Of a row with retrieved sources about one token in seven carries loss, and the output layer of a model with 200,064 tokens is a
sixth of its arithmetic. Its logits are made for 1,024 answer tokens at a time, turned into their gradient at once, and dropped.
"""

from __future__ import annotations

import functools
from typing import Any

import torch

from distill.errors import PipelineError

TOKENS_AT_ONCE = 1024  # 0.8 GB of float32 logits at 200,064 entries


class AnswerLoss(torch.autograd.Function):
    """Sum over A tokens of -log softmax(hidden @ weight.T)[target], with the gradient for `hidden` made on the way.

    d loss / d hidden = (softmax(logits) - one_hot(target)) @ weight. The weight is frozen and gets none.
    """

    @staticmethod
    def forward(ctx: Any, hidden: Any, weight: Any, targets: Any, tokens_at_once: int) -> Any:
        """hidden [A, h], weight [V, h], targets int64 [A]; returns a float32 scalar."""
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        gradient = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        for part in torch.arange(len(targets)).split(tokens_at_once) if len(targets) else ():
            rows = slice(int(part[0]), int(part[-1]) + 1)
            logits = (hidden[rows].to(weight.dtype) @ weight.T).float()
            norms = logits.logsumexp(-1, keepdim=True)
            total += (norms - logits.gather(1, targets[rows, None])).sum()
            if gradient is not None:
                slopes = logits.sub_(norms).exp_()
                slopes.scatter_add_(1, targets[rows, None], torch.full_like(norms, -1.0))
                gradient[rows] = (slopes.to(weight.dtype) @ weight).to(gradient.dtype)
        ctx.save_for_backward(gradient)
        return total

    @staticmethod
    def backward(ctx: Any, slope: Any) -> tuple[Any, None, None, None]:
        """The gradient made in forward, times what comes from above."""
        (gradient,) = ctx.saved_tensors
        return gradient * slope.to(gradient.dtype), None, None, None


def sum_answer_loss(hidden: Any, head: Any, targets: Any) -> Any:
    """The summed loss of `targets` under the frozen output layer `head` at hidden states [A, h], as a float32 scalar."""
    if head.weight.requires_grad:
        raise RuntimeError("the output layer must be frozen: it gets no gradient here")
    return AnswerLoss.apply(hidden, head.weight, targets, TOKENS_AT_ONCE)


def add_answer_loss(model: Any) -> None:
    """Teach a causal model to return its summed answer loss: model(**inputs, predicting=..., targets=...).

    Without those two it answers as before, so that it can still generate. To be called before PEFT or DistributedDataParallel
    wraps the model. Raises PipelineError for an output layer with a bias, or with caps or scales on its logits.
    """
    settings, answer = model.config.get_text_config(), model.forward
    names = ("final_logit_softcapping", "logit_scale", "logits_scaling")
    altered = [name for name in names if getattr(settings, name, None) not in (None, 1.0)]
    altered += ["bias"] if getattr(model.get_output_embeddings(), "bias", None) is not None else []
    if altered:
        name = type(model).__name__
        raise PipelineError(f"{name} alters its logits ({altered[0]}), which this trainer cannot do: use another model")

    @functools.wraps(answer)  # generate() looks into the signature
    def forward(*args: Any, predicting: Any = None, targets: Any = None, **kwargs: Any) -> Any:
        if predicting is None:
            return answer(*args, **kwargs)
        hidden = model.get_decoder()(*args, **kwargs).last_hidden_state
        return sum_answer_loss(hidden[0, predicting], model.get_output_embeddings(), targets)

    model.forward = forward
