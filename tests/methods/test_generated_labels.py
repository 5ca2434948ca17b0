import torch

from mmlab.losses.unimodal_labels import centres, closeness, mixed_labels, moved_labels
from mmlab.methods.generated_labels import GeneratedLabels

WIDTHS = (3, 2, 2)
TARGETS = torch.tensor([2.0, -1.5, 0.0, 0.5, -3.0, 1.0])


def begun(targets=TARGETS, present=None):
    labels = GeneratedLabels(len(targets), WIDTHS, 3.0, exclude_zero=True)
    labels.begin(targets, torch.ones(len(targets), 2, dtype=torch.bool) if present is None else present)
    return labels


def rows(count):
    return torch.randn(count, sum(WIDTHS)).relu()


def epoch_of(labels, number):
    return sum(labels.learn(index, rows(len(index)), number) for index in torch.randperm(len(TARGETS)).split(3))


def test_labels_begin_as_the_true_ones_and_stay_in_the_first_epoch():
    labels = begun()
    assert torch.equal(labels.of(torch.tensor([4, 0])), torch.tensor([[-3.0, 2.0], [-3.0, 2.0]]))
    epoch_of(labels, 1)
    assert torch.equal(labels.unimodal, TARGETS.expand(2, 6))
    epoch_of(labels, 2)
    assert not torch.equal(labels.unimodal, TARGETS.expand(2, 6))


def test_the_true_labels_never_change_and_the_others_stay_within_the_bound():
    labels = begun()
    clamped = 0
    for number in range(1, 9):
        clamped += epoch_of(labels, number)
        assert torch.equal(labels.multimodal, TARGETS)
        assert (labels.unimodal.abs() <= 3).all()
    assert clamped > 0


def test_centres_are_of_the_whole_bank_by_position_in_the_split():
    labels = begun()
    first, second = torch.tensor([5, 1, 3]), torch.tensor([0, 4, 2])
    given = rows(3), rows(3)
    labels.learn(first, given[0], 1)
    assert torch.equal(labels.bank[first], given[0])
    assert (labels.bank[second] == 0).all()
    labels.learn(second, given[1], 1)
    assert torch.equal(labels.bank[first], given[0])
    expected, _ = centres(labels.bank, TARGETS, torch.ones(6, dtype=torch.bool), exclude_zero=True)
    torch.testing.assert_close(labels.centres, expected)


def test_labels_move_by_the_centres_of_the_batch_before():
    labels = begun()
    epoch_of(labels, 1)
    before, index, given = labels.centres.clone(), torch.tensor([3, 0, 4]), rows(3)
    labels.learn(index, given, 2)
    fused, text = (closeness(given[:, part], before[:, part]) for part in labels.parts[:2])
    new = moved_labels(TARGETS[index], text[None], fused)[0]
    expected = mixed_labels(TARGETS[index], new.clamp(-3, 3), 2)
    torch.testing.assert_close(labels.unimodal[0, index], expected)
    # Now, the centres hold this batch.
    assert not torch.equal(labels.centres, before)


def test_each_branch_has_the_centres_of_its_own_labels():
    labels = begun()
    for number in (1, 2, 3):
        epoch_of(labels, number)
    own = labels.unimodal[1]
    assert (own.sign() != TARGETS.sign()).any()
    expected, found = centres(labels.bank[:, labels.parts[2]], own, torch.ones(6, dtype=torch.bool), exclude_zero=True)
    torch.testing.assert_close(labels.centres[found][:, labels.parts[2]], expected[found])


def test_an_empty_side_makes_no_nan_and_labels_wait():
    labels = begun(TARGETS.abs())
    for number in range(1, 4):
        for index in torch.randperm(6).split(3):
            assert labels.learn(index, rows(3), number) == 0
    assert torch.equal(labels.unimodal, TARGETS.abs().expand(2, 6))
    assert labels.found[0].all()
    assert not labels.found[1].any()
    assert labels.centres.isfinite().all()


def test_a_side_that_empties_keeps_its_centre():
    labels = begun()
    epoch_of(labels, 1)
    before = labels.centres[1, labels.parts[1]].clone()
    labels.unimodal[0] = 1.0
    labels.learn(torch.tensor([0, 1]), rows(2), 1)
    assert torch.equal(labels.centres[1, labels.parts[1]], before)
    assert labels.found.all()


def test_what_a_sample_lacks_moves_no_label_and_no_centre():
    present = torch.ones(6, 2, dtype=torch.bool)
    present[3, 0] = False
    labels, whole = begun(present=present), begun()
    for number in (1, 2, 3):
        for index in torch.randperm(6).split(3):
            given = rows(3)
            labels.learn(index, given, number)
            whole.learn(index, given, number)
    assert labels.unimodal[0, 3] == TARGETS[3]
    assert labels.unimodal[1, 3] != TARGETS[3]
    assert whole.unimodal[0, 3] != TARGETS[3]
    changed = labels.centres.clone()
    labels.bank[3, labels.parts[1]] = 100.0
    labels.learn(torch.tensor([0]), labels.bank[:1].clone(), 1)
    torch.testing.assert_close(labels.centres[:, labels.parts[1]], changed[:, labels.parts[1]])


def test_the_share_of_clamped_labels():
    labels = begun()
    epoch_of(labels, 1)
    index = torch.arange(6)
    given = labels.bank.clone()
    new = labels.new_labels(TARGETS, [given[:, part] for part in labels.parts])
    share = labels.learn(index, given, 2)
    assert share > 0
    torch.testing.assert_close(share, (new.abs() > 3).float().mean())
