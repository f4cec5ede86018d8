"""The answers' loss is PyTorch's own, in value and gradient, and the output layer sees answer tokens alone."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distill.errors import PipelineError
from distill.training import losses
from distill.training.attention import plain_attention, use_row_attention
from distill.training.batches import lay_end_to_end
from distill.training.losses import add_answer_loss, sum_answer_loss
from tests.training.families import FAMILIES, VOCABULARY, add_random_lora, make_model, make_rows

torch = pytest.importorskip("torch")


def make_head(hidden: int, vocabulary: int, dtype: Any = torch.float32) -> Any:
    return torch.nn.Linear(hidden, vocabulary, bias=False, dtype=dtype).requires_grad_(False)


def lose_as_pytorch(hidden: Any, head: Any, targets: Any) -> Any:
    return torch.nn.functional.cross_entropy(head(hidden).float(), targets, reduction="sum")


# -----------------------------------------------------------------------------
# The sum


@settings(max_examples=40, deadline=None)
@given(tokens=st.integers(0, 23), at_once=st.integers(1, 9), scale=st.sampled_from([0.01, 1.0, 30.0]), seed=st.integers(0, 9))
def test_value_and_gradient_are_those_of_cross_entropy(tokens: int, at_once: int, scale: float, seed: int) -> None:
    """In parts of any size: whole ones, a last one that is not, one larger than all, and none."""
    torch.manual_seed(seed)
    head, targets = make_head(8, 50), torch.randint(50, (tokens,))
    ours = (scale * torch.randn(tokens, 8)).requires_grad_()
    theirs = ours.detach().clone().requires_grad_()
    loss, expected = losses.AnswerLoss.apply(ours, head.weight, targets, at_once), lose_as_pytorch(theirs, head, targets)
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-5)
    (0.25 * loss).backward()
    (0.25 * expected).backward()
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-6)


def test_sixteen_bit_states_get_gradients_of_their_kind() -> None:
    torch.manual_seed(0)
    head, targets = make_head(16, 50, torch.bfloat16), torch.randint(50, (30,))
    ours = torch.randn(30, 16, dtype=torch.bfloat16, requires_grad=True)
    theirs = ours.detach().clone().requires_grad_()
    loss, expected = sum_answer_loss(ours, head, targets), lose_as_pytorch(theirs, head, targets)
    loss.backward()
    expected.backward()
    assert loss.dtype == torch.float32 and ours.grad.dtype == torch.bfloat16
    torch.testing.assert_close(loss, expected, rtol=1e-3, atol=0)
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=0.05, atol=0.02)


def test_certain_and_hopeless_answers_stay_finite() -> None:
    head = make_head(2, 3)
    with torch.no_grad():
        head.weight.copy_(torch.tensor([[1e4, 0.0], [-1e4, 0.0], [0.0, 0.0]]))
    hidden = torch.tensor([[1.0, 0.0], [1.0, 0.0]], requires_grad=True)
    loss = sum_answer_loss(hidden, head, torch.tensor([0, 1]))
    loss.backward()
    assert loss.item() == 2e4 and torch.isfinite(hidden.grad).all()


def test_a_state_that_is_no_number_makes_the_loss_none() -> None:
    assert torch.isnan(sum_answer_loss(torch.full((3, 4), float("nan")), make_head(4, 9), torch.tensor([1, 2, 3])))


def test_a_head_that_learns_is_refused() -> None:
    head = make_head(4, 9).requires_grad_(True)
    with pytest.raises(RuntimeError, match="must be frozen"):
        sum_answer_loss(torch.randn(2, 4), head, torch.tensor([0, 1]))


# -----------------------------------------------------------------------------
# In a model


class HeadRows(torch.utils._python_dispatch.TorchDispatchMode):
    """Counts the rows of every matrix that is multiplied with `weight` or its transpose, as PyTorch dispatches it."""

    def __init__(self, weight: Any) -> None:
        super().__init__()
        self.place, self.rows = weight.untyped_storage().data_ptr(), []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        tensors = [value for value in args if isinstance(value, torch.Tensor)]
        multiplies = function in (torch.ops.aten.mm.default, torch.ops.aten.addmm.default, torch.ops.aten.bmm.default)
        if multiplies and tensors[-1].untyped_storage().data_ptr() == self.place:
            self.rows.append(tensors[-2].shape[-2])
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("family", FAMILIES)
def test_the_output_layer_runs_on_answer_tokens_only(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once for the logits and once for their gradient, in parts; transformers' own way runs it on every token."""
    monkeypatch.setattr(losses, "TOKENS_AT_ONCE", 8)
    model = make_model(family)
    add_answer_loss(model)
    use_row_attention(model)
    model, rows = add_random_lora(model), make_rows(4)
    batch, answers = lay_end_to_end(rows), sum(row.answer_tokens for row in rows)
    with HeadRows(model.get_output_embeddings().weight) as count:
        model(**batch.to_inputs(), predicting=batch.predicting, targets=batch.targets).backward()
    assert sum(count.rows) == 2 * answers < batch.tokens and max(count.rows) == 8
    usual = add_random_lora(make_model(family))
    with HeadRows(usual.get_output_embeddings().weight) as count:
        ids, labels = torch.tensor([rows[0].input_ids]), torch.tensor([rows[0].labels])
        usual(input_ids=ids, labels=labels, use_cache=False).loss.backward()
    assert sum(count.rows) == 2 * len(rows[0].input_ids)


def test_a_batch_without_answers_loses_nothing() -> None:
    model = make_model("phi3")
    add_answer_loss(model)
    use_row_attention(model)
    model, batch, none = add_random_lora(model), lay_end_to_end(make_rows(2)), torch.tensor([], dtype=torch.int64)
    loss = model(**batch.to_inputs(), predicting=none, targets=none)
    loss.backward()
    assert loss.item() == 0 and not any(p.grad.any() for p in model.parameters() if p.requires_grad)


def test_without_targets_a_model_answers_as_before() -> None:
    model, reference, ids = make_model("phi3"), make_model("phi3"), torch.tensor([make_rows(1)[0].input_ids])
    add_answer_loss(model)
    with torch.no_grad():
        assert torch.equal(model(input_ids=ids).logits, reference(input_ids=ids).logits)
        written = model.generate(input_ids=ids, max_new_tokens=8, do_sample=False)
        assert written.tolist() == reference.generate(input_ids=ids, max_new_tokens=8, do_sample=False).tolist()


def test_generation_between_two_batches_changes_neither() -> None:
    model, ids = make_model("qwen3"), torch.tensor([make_rows(1)[0].input_ids])
    add_answer_loss(model)
    use_row_attention(model)
    batch = lay_end_to_end(make_rows(3))
    with torch.no_grad():
        before = model(**batch.to_inputs(), predicting=batch.predicting, targets=batch.targets)
        with plain_attention(model):
            model.generate(input_ids=ids, max_new_tokens=4, do_sample=False)
        assert model(**batch.to_inputs(), predicting=batch.predicting, targets=batch.targets) == before


@pytest.mark.parametrize(
    ("family", "changes", "named"),
    [
        ("gemma2", {}, "final_logit_softcapping"),
        ("cohere", {"logit_scale": 0.0625}, "logit_scale"),
        ("granite", {"logits_scaling": 8.0}, "logits_scaling"),
        ("phi", {}, "bias"),
    ],
)
def test_models_that_alter_their_logits_are_refused(family: str, changes: dict, named: str) -> None:
    with pytest.raises(PipelineError, match=rf"alters its logits \({named}\).*: use another model"):
        add_answer_loss(make_model(family, **changes))


@pytest.mark.parametrize(
    ("family", "changes"), [("gemma3_text", {"final_logit_softcapping": None}), ("granite", {"logits_scaling": 1.0})]
)
def test_models_that_could_but_do_not_are_taken(family: str, changes: dict) -> None:
    model = make_model(family, **changes)
    add_answer_loss(model)
    batch = lay_end_to_end(make_rows(1))
    logits = model(input_ids=batch.input_ids).logits[0, batch.predicting]
    expected = torch.nn.functional.cross_entropy(logits, batch.targets, reduction="sum")
    loss = model(input_ids=batch.input_ids, predicting=batch.predicting, targets=batch.targets)
    assert logits.shape[1] == VOCABULARY
    torch.testing.assert_close(loss, expected)
