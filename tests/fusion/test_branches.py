import pytest
import torch

from mmlab.errors import UserError
from mmlab.fusion.branches import Branch, BranchDropouts, BranchWidths, build_branches
from mmlab.types import DataSpec, Modality, Sentiment

SPEC = DataSpec(
    "Toy", tuple(Modality(name, "vector", (4,)) for name in ("text", "audio", "other")), Sentiment(-3.0, 3.0), 8
)
ENCODED = {"text": 5, "audio": 3, "other": 2}


def test_sizes_and_dropouts():
    fused, own = build_branches(SPEC, ENCODED, BranchWidths(text=7), BranchDropouts(fusion=0.2, audio=0.5))
    assert [branch.width for branch in (fused, *own.values())] == [128, 7, 16, 32]
    assert [branch.dropout.p for branch in (fused, *own.values())] == [0.2, 0.1, 0.5, 0.0]
    representation, decision = fused.eval()(torch.randn(6, 10))
    assert representation.shape == (6, 128)
    assert decision.shape == (6, 1)
    assert (representation >= 0).all()


def test_a_branch_is_three_layers():
    branch = Branch(4, 3, 0.0)
    x = torch.randn(5, 4)
    representation, decision = branch(x)
    torch.testing.assert_close(representation, branch.representation(x).relu())
    torch.testing.assert_close(decision, branch.output(branch.hidden(representation).relu()))


@pytest.mark.parametrize(
    ("widths", "dropouts", "words"),
    [
        (BranchWidths(vision=4), BranchDropouts(), "no modality 'vision'"),
        (BranchWidths(), BranchDropouts(vision=0.1), "no modality 'vision'"),
        (BranchWidths(fusion=0), BranchDropouts(), "branch_widths.fusion"),
        (BranchWidths(text=-1), BranchDropouts(), "branch_widths.text"),
        (BranchWidths(), BranchDropouts(audio=1.0), "branch_dropouts.audio"),
        (BranchWidths(), BranchDropouts(fusion=float("nan")), "branch_dropouts.fusion"),
    ],
)
def test_what_makes_no_sense_is_refused(widths, dropouts, words):
    with pytest.raises(UserError, match=words):
        build_branches(SPEC, ENCODED, widths, dropouts)
