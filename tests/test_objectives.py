"The guide's loss against another project's numbers, and its laws."

import pytest
import torch

from icdrat.learning.objectives import attention_kl, emc_weight


def evidence_rows(ids, targets, n_words):
    "One row per code of the note, and which of them have evidence"
    rows = torch.zeros(int(sum(targets)), n_words, dtype=torch.float64)
    for row, tokens in zip(rows, ids):
        row[list(set(tokens))] = 1.0
    marked = rows.sum(1) > 0
    return rows[marked] / rows[marked].sum(1, keepdim=True), marked


def test_it_is_the_loss_of_explainable_medical_coding_up_to_its_scale(oracle):
    for case in oracle("emc_supervised_loss")["cases"]:
        if "input_ids" not in case:
            continue
        kls = []
        for ids, targets, scores in zip(case["evidence_token_ids"], case["targets"], case["expected"]["raw_scores"]):
            if ids is None:
                continue
            log_attention = torch.tensor(scores, dtype=torch.float64).log_softmax(-1)[torch.tensor(targets) > 0]
            evidence, marked = evidence_rows(ids, targets, log_attention.shape[1])
            weight = emc_weight(1.0, int(marked.sum()), int(sum(targets)), log_attention.shape[1])
            kls.append(weight * attention_kl(log_attention[marked], evidence))
        guide = case["lambda"] * torch.stack(kls).mean() if kls else 0.0
        assert case["expected"]["loss"] == pytest.approx(case["expected"]["bce"] + float(guide), abs=1e-5), case["name"]


@pytest.mark.parametrize("seed", range(20))
def test_no_attention_is_closer_to_the_evidence_than_the_evidence(seed):
    g = torch.Generator().manual_seed(seed)
    evidence = torch.rand(3, 7, generator=g, dtype=torch.float64).softmax(-1)
    other = torch.rand(3, 7, generator=g, dtype=torch.float64).softmax(-1)
    assert attention_kl(evidence.log(), evidence) == pytest.approx(0.0, abs=1e-12)
    assert attention_kl(other.log(), evidence) > 0


def test_padding_changes_neither_the_loss_nor_the_gradient():
    scores = torch.tensor([[0.3, 1.2, -0.5]], requires_grad=True)
    evidence = torch.tensor([[0.0, 1.0, 0.0]])
    loss = attention_kl(scores.log_softmax(-1), evidence)
    loss.backward()
    padded = torch.cat([scores.detach(), torch.full((1, 2), -torch.inf)], 1).requires_grad_()
    longer = attention_kl(padded.log_softmax(-1), torch.cat([evidence, torch.zeros(1, 2)], 1))
    longer.backward()
    assert torch.allclose(loss, longer) and torch.allclose(scores.grad, padded.grad[:, :3])
    assert (padded.grad[:, 3:] == 0).all()


def test_a_word_without_evidence_is_not_punished_beyond_what_it_takes():
    evidence = torch.tensor([[1.0, 0.0, 0.0]])
    one = torch.tensor([[0.5, 0.5, 1e-30]]).log()
    spread = torch.tensor([[0.5, 0.25, 0.25]]).log()
    assert torch.allclose(attention_kl(one, evidence), attention_kl(spread, evidence))
