"""The power of a study in closed form (`study/analysis/power.py`) beside how often 1,000 simulated studies show the
preference (the reference).

    python -m benchmarks.study.power
"""

import numpy as np

from e2ed2.study.analysis.crossed import share_interval, variance_shares
from e2ed2.study.analysis.power import Assumed, power
from e2ed2.study.analysis.simulate import Population, draw_scores

STUDIES, SIZES = 1000, ((3, 40), (5, 40), (10, 40), (10, 100), (10, 300), (30, 20))
generator = np.random.default_rng(3)

for title, population in {
    "raters and prompts differ": Population({"first": 0.15, "second": 0.0}),
    "neither differs": Population({"first": 0.15, "second": 0.0}, rater_spread=0.0, prompt_spread=0.0),
}.items():
    scores, rater, prompt = draw_scores(population, 1500, 1500, generator)
    shares = variance_shares((scores + 1) / 2, rater, prompt)
    assert shares is not None
    win, tie, _ = population.shares("first", "second")
    print(f"{title}: preference {win + tie / 2:.1%}, ties {tie:.1%}, raters {shares[0]:.1%}, prompts {shares[1]:.1%}")
    for raters, prompts in SIZES:
        shown = 0
        for _ in range(STUDIES):
            scores, rater, prompt = draw_scores(population, raters, prompts, generator)
            limits = share_interval((scores + 1) / 2, rater, prompt).limits
            shown += limits is not None and limits[0] > 0.5
        told = power(Assumed(win + tie / 2, tie, *shares), raters, prompts)
        print(f"{raters} raters, {prompts} prompts: {shown} of {STUDIES}, closed form {STUDIES * told:.0f}", flush=True)
