"""Strengths of several models from votes on pairs of them: Bradley & Terry (1952) with ties after Davidson (1970).

With strengths pi and a tie parameter nu, i beats j, ties with it and loses to it in the proportions
pi_i : nu sqrt(pi_i pi_j) : pi_j. In logarithms that is a multinomial logit, whose likelihood is concave.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from e2ed2.study.analysis.agreement import chosen, numbered
from e2ed2.study.analysis.crossed import Floats, Indices, Interval, symmetric_interval
from e2ed2.study.votes import Vote

MOST = 15.0  # of a logarithm: beyond it the likelihood only grows, as where a model wins always


@dataclass(frozen=True)
class Strengths:
    """Fitted strengths.

    Attributes:
        log_strength: of each model, natural logarithm; they sum to zero. Their intervals are over raters and prompts.
        nu: the tie parameter, 0 without ties.
    """

    log_strength: dict[str, Interval]
    nu: float


def fit_strengths(main: Sequence[Vote], models: Sequence[str]) -> Strengths | None:
    """The most likely strengths, of one main vote or more.

    Returns:
        None where no finite ones are: ties alone, a model that wins or loses always, models never compared.
    """
    index = {model: i for i, model in enumerate(models)}
    left, right = np.array([(index[vote.left], index[vote.right]) for vote in main]).T
    outcome = np.array([{v.left: 0, v.right: 1, "": 2}[chosen(v)] for v in main])
    found = davidson(left, right, outcome, len(models))
    if found is None:
        return None
    beta, influence = found
    rater, prompt = numbered(vote.rater for vote in main), numbered(vote.prompt for vote in main)
    intervals = [symmetric_interval(float(beta[i]), influence[:, i], rater, prompt) for i in range(len(models))]
    nu = float(np.exp(beta[-1])) if (outcome == 2).any() else 0.0
    return Strengths(dict(zip(models, intervals, strict=True)), nu)


def davidson(left: Indices, right: Indices, outcome: Indices, models: int) -> tuple[Floats, Floats] | None:
    """Newton's method on the likelihood.

    Args:
        left, right: of each vote the models, [N], numbered from 0. outcome: 0 left, 1 right, 2 tie, [N].
    Returns:
        The logarithms of strengths and of nu, [models + 1], strengths summing to zero, and what each vote adds to their
        error, [N, models + 1]; None where they are not finite.
    """
    couples, couple = np.unique(np.stack([left, right]), axis=1, return_inverse=True)
    counts = np.bincount(3 * couple.ravel() + outcome, minlength=3 * couples.shape[1]).reshape(-1, 3)
    ties, one = bool(counts[:, 2].any()), np.eye(models + 1)
    features = np.stack([one[couples[0]], one[couples[1]], one[couples].mean(axis=0) + one[-1]][: 2 + ties], axis=1)
    gauge = np.diag([0.0] * models + [float(not ties)])
    gauge[:models, :models] = 1  # strengths sum to zero; without ties nu stays where it is
    beta = np.zeros(models + 1)
    for _ in range(100):
        logits = features @ beta  # [couples, outcomes]
        chances = np.exp(logits - logits.max(axis=1, keepdims=True))
        chances /= chances.sum(axis=1, keepdims=True)
        scores = features - np.einsum("co,cok->ck", chances, features)[:, None]  # of a vote, by couple and outcome
        expected = counts.sum(axis=1, keepdims=True) * chances
        hessian = np.einsum("co,cok,col->kl", expected, scores, scores) + gauge
        try:
            step = np.linalg.solve(hessian, np.einsum("co,cok->k", counts[:, : 2 + ties], scores))
        except np.linalg.LinAlgError:
            return None
        beta = beta + step / max(np.abs(step).max(), 1.0)
        if np.abs(beta).max() > MOST:
            return None
        if np.abs(step).max() < 1e-10:
            return beta, (scores @ np.linalg.inv(hessian))[couple.ravel(), outcome]
    return None
