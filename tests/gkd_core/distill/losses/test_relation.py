"""Relation of class and box: score times overlap is the teacher's."""

import torch

from gkd_core.distill.losses.predictions import Predictions
from gkd_core.distill.losses.relation import class_box_relation, relation_distance

OBJECT = torch.tensor([[0.0, 0, 2, 2]])


def test_a_number_worked_out_by_hand() -> None:
    teacher = Predictions(torch.tensor([[0.2, 0.8]]), OBJECT)
    student = Predictions(torch.tensor([[0.6, 0.3]]), torch.tensor([[1.0, 0, 3, 2]]))  # IoU 1/3
    mine, theirs = class_box_relation(student, OBJECT), class_box_relation(teacher, OBJECT)
    assert torch.allclose(torch.cat([mine, theirs]), torch.tensor([0.2, 0.8]))
    assert torch.allclose(relation_distance(mine, theirs), torch.tensor([0.18]))  # 0.6 squared, halved


def test_scores_and_boxes_both_learn() -> None:
    scores = torch.tensor([[0.6, 0.3]], requires_grad=True)
    boxes = torch.tensor([[1.0, 0, 3, 2]], requires_grad=True)
    relation_distance(class_box_relation(Predictions(scores, boxes), OBJECT), torch.ones(1)).sum().backward()
    assert scores.grad is not None
    assert boxes.grad is not None
    assert scores.grad[0, 0] < 0  # a higher score of the best class
    assert boxes.grad[0, 0] > 0  # a left side further to the left
