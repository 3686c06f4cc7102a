"""Figures of policies."""

import torch

from innerloop import mumomaml, pretrained
from innerloop.methods import maltml, maml
from innerloop.models import OfTrajectory, with_film
from innerloop.rl import Experience, FamilyExperience, Navigation, Rectangles, Told, gaussian_mlp, judged, ratio, score
from innerloop.tracks import goal_embeddings, on_a_plane, practising, walks


def test_walks_have_a_panel_for_each_task_and_point_with_the_goal_in_it() -> None:
    policy, met = gaussian_mlp(2, 8, 2), Experience(Navigation(horizon=6), 3)
    learner = maml(policy, score(policy), steps=2, rate=0.1)
    figure = walks(learner, met, "MAML", tasks=3, shown=2)
    assert len(figure.axes) == 3 * 3
    goals = met.world.tasks("test", 0, 3)
    first = figure.axes[3].lines  # the second task before adaptation
    assert len(first) == 2 + 2
    assert [line.get_marker() for line in first[2:]] == ["o", "*"]
    torch.testing.assert_close(torch.tensor(first[3].get_xydata()).flatten().float(), goals[1, :2])
    assert figure.axes[1].get_title() == "after 1 step"


def test_walks_of_families_are_of_their_goal_tasks() -> None:
    policy = gaussian_mlp(2, 8, 2)
    base = judged(maml(policy, score(policy), steps=1, rate=0.1), policy)
    met = FamilyExperience(Experience(Rectangles(Navigation(horizon=6)), 3), base, related=2, goals=1)
    figure = walks(maltml(base), met, "MALTML", tasks=2)
    assert len(figure.axes) == 2 * 2
    goals = met.world.families("test", 0, 2, 3)[:, 2, :2]
    torch.testing.assert_close(torch.tensor(figure.axes[2].lines[-1].get_xydata()).flatten().float(), goals[1])


def test_goals_are_embedded_by_what_the_unmodulated_policy_sees() -> None:
    world = Navigation(horizon=6, centres=((0.5, 0.5), (-0.5, -0.5)))
    film = with_film(gaussian_mlp(2, 8, 2))
    learner = judged(mumomaml(film, score(film), 1, 0.1, encoder=OfTrajectory(5, 4), hidden=None), film)
    told, modes = goal_embeddings(learner, Experience(world, 3, preparing=1), goals=150)
    assert told.shape == (150, 4)
    assert len(told.unique(dim=0)) == 150
    assert torch.equal(modes, world.tasks("test", 0, 150)[:, 4].long())
    assert 50 < int(modes.sum()) < 100


def test_learning_curves_have_a_line_for_each_point_of_the_path() -> None:
    rows = [{"iteration": k, "returns": [-40.0, -40.0 + k]} for k in range(5)] + [{"iteration": 5, "engine": "vmap"}]
    [panel] = practising(rows, "MAML").axes
    assert [line.get_label() for line in panel.lines] == ["after 0 steps", "after 1 step"]
    assert torch.as_tensor(panel.lines[1].get_ydata()).tolist() == [-40.0, -39.0, -38.0, -37.0, -36.0]


def test_a_plane_is_told_from_other_worlds() -> None:
    policy = gaussian_mlp(4, 8, 2)
    assert pretrained(policy, ratio(policy)).prior
    for world in (Navigation(), Told(Navigation()), Rectangles()):
        assert on_a_plane(Experience(world))
    assert not on_a_plane(object())
