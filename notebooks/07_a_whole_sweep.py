# %% [markdown]
# # 7. A whole sweep, and the question which optimizer is best
#
# **Question.** You have a model of your own. Which learning rate, for how many steps, with which optimizer? And when a
# table says that one optimizer is better, is it?
#
# Notebook 1 drew a heat map of learning rate and steps for a function of one variable. Here the same is done for a
# Flax model on the digits: every cell of the map is a training run, and all runs are lanes of one compiled program.
#
# In this notebook a number in bold was measured by the cell above it.

# %%
# %matplotlib inline
import flax.linen as nn
import matplotlib.pyplot as plt
import numpy as np

import gradlab
from gradlab import plots, tasks

plt.rcParams["figure.dpi"] = 80


class Net(nn.Module):
    width: int = 64

    @nn.compact
    def __call__(self, x):
        for _ in range(2):
            x = nn.relu(nn.Dense(self.width)(x))
        return nn.Dense(10)(x)


digits = tasks.digits()
task = tasks.flax_task(Net(), digits.train, valid=digits.valid)
print(f"{task.num_params} parameters, {task.num_examples} training examples")

# %% [markdown]
# ## Learning rate against steps
#
# Thirteen learning rates of Adam from $10^{-3}$ to 1, four seeds each. All trials of a seed share their initial
# weights and their batches, so that they can be compared in pairs.

# %%
plan = {"epochs": 10, "batch_size": 64, "eval_every": 10}  # 19 batches an epoch
rates = {"learning_rate": {"log": [1e-3, 1.0]}}
result = gradlab.sweep(task, gradlab.adam, rates, trials=13, sampler="grid", seeds=4, **plan)
step, losses = result.curve("valid_loss")
mean, values = losses.mean(1), np.array(result.values("learning_rate"))
early, last = list(step).index(10), len(step) - 1
print(f"best rate after {step[early]} steps: {values[mean[:, early].argmin()]:.3f}")
best, change = int(mean[:, last].argmin()), losses[:, :, last].std(1, ddof=1)
print(f"best rate after {step[last]} steps: {values[best]:.3f}, loss {mean[best, last]:.2f} +- {change[best]:.2f}")

ax = plots.rate_by_steps(result)
ax.figure.set_dpi(80)
ax.figure

# %% [markdown]
# The dots mark the best rate at each step. Two rules of the textbooks are in this picture. Rate times steps has to be
# large enough: the slow rates at the bottom get there, later. And the rate that is best at first is not the one that
# is best in the end: judge a rate by a run of the length that you are going to make. One rule is not: there is no
# sharp edge at the top, as there was on the parabola. Adam's steps have the length of the rate, so a rate that is too
# large does not diverge; it jitters, at a height that grows with the rate.
#
# ## Do all runs have to go to the end?
#
# Successive halving stops the worst after a few steps. With `eta=3` a third goes on, three times as far, and so on.

# %%
halved = gradlab.sweep(
    task, gradlab.adam, rates, trials=13, sampler="grid", seeds=4, scheduler={"name": "halving", "eta": 3}, **plan
)
share = halved.steps_done.sum() / result.steps_done.sum()
same = halved.best()["learning_rate"].iloc[0] == result.best()["learning_rate"].iloc[0]
print(f"halving ran {halved.steps_done.sum()} steps instead of {result.steps_done.sum()}, {share:.2f} of them")
print(f"it found the same winner: {same}")
ax = plots.rate_by_steps(halved)
ax.figure.set_dpi(80)
ax.figure

# %% [markdown]
# A share of **0.22** of the steps, and in this sweep the same winner. It is a bet: halving trusts the order at an
# early step, and the first picture shows that the order changes. Where the best rate at first is far from the best in
# the end, use a larger `first`, or none.
#
# ## Which optimizer?
#
# Four answers are wrong on purpose in many comparisons: each optimizer at the rate that suits one of them; more trials
# for the new one; the best of several trials reported as if it were a fresh run; one seed. `gradlab.contest` tunes
# each with the same budget, then runs the winner of each with *fresh* seeds. All end with a learning rate that falls
# to zero, since otherwise the noise of the last steps decides.

# %%
falling = lambda make: lambda learning_rate: make(gradlab.linear_schedule(learning_rate, 0.0, 190))
makes = {
    "SGD": (gradlab.sgd, [2e-2, 2.0]),
    "momentum": (lambda rate: gradlab.sgd(rate, momentum=0.9), [1e-3, 1.0]),
    "RMSProp": (gradlab.rmsprop, [1e-4, 1e-1]),
    "Adam": (gradlab.adam, [1e-4, 1e-1]),
}
entrants = {
    name: gradlab.Entrant(falling(make), {"learning_rate": {"log": bounds}}) for name, (make, bounds) in makes.items()
}
contest = gradlab.contest(task, entrants, reference="Adam", trials=7, seeds=2, fresh_seeds=8, **plan)

finals = {name: one.final("valid_loss")[0] for name, one in contest.fresh.items()}
for row in contest.table.itertuples():
    paired = "" if row.optimizer == "Adam" else f"; minus Adam {row.difference:+.3f} +- {row.error:.3f}"
    scores = f"loss {row.mean:.3f}, spread over seeds {row.std:.3f}{paired}"
    print(f"{row.optimizer:8s} rate {row.learning_rate:.3f}: {scores}")

fig, (left, right) = plt.subplots(1, 2, figsize=(10.5, 3.8), layout="constrained")
for index, (name, tuned) in enumerate(contest.tuned.items()):
    style = {"color": plots.PALETTE[index], "ls": plots.style.DASHES[index], "marker": "os^D"[index], "ms": 5}
    summary = tuned.summary("valid_loss")
    left.loglog(summary["learning_rate"], summary["mean"], label=name, **style)
    right.plot([index] * len(finals[name]), finals[name], "os^D"[index], color=plots.PALETTE[index], alpha=0.6)
    right.plot(index, finals[name].mean(), "_", color="black", ms=26, mew=2)
left.set(xlabel="learning rate", ylabel="validation loss at the end", title="tuning")
left.legend(frameon=False)
right.set(
    xlim=(-0.5, 3.5),
    xticks=range(4),
    xticklabels=list(finals),
    ylabel="validation loss at the end",
    title="eight fresh seeds",
)
plt.show()

# %% [markdown]
# The same seed gives every optimizer the same start and the same batches, so the honest number is the *difference* for
# a seed, with its standard error over the seeds. Plain SGD is behind Adam by **0.036** +- **0.006**, six standard
# errors: that is real. Momentum is behind by **0.015** +- **0.005**, which probably is. RMSProp and Adam cannot be
# told apart, although the table has one above the other: **+0.004** +- **0.005**. How much was there to gain at all?

# %%
worst = {name: float(np.nanmax(tuned.final("valid_loss").mean(1))) for name, tuned in contest.tuned.items()}
means = [final.mean() for final in finals.values()]
print(f"between the tuned optimizers the mean loss differs by a factor of {max(means) / min(means):.1f}")
print(f"between the rates of one optimizer by 5 or more: {min(worst.values()) / max(means) > 5}")
ax = plots.contest_curves(contest)
ax.figure.set_dpi(80)
ax.figure

# %% [markdown]
# A factor of **1.6** between the optimizers, of 5 and more between the rates of each. So the texts are right that
# there is no consensus on the best optimizer, and that the learning rate has to be tuned even for the adaptive ones.
# Time spent on rates pays better than time spent on names.
#
# **Answer.** Sweep the rate first, in runs of the length that you will make, on a logarithmic grid that shows both
# ends of the valley. Let halving save the steps. Compare optimizers only tuned with one budget, on fresh seeds, by
# differences with standard errors; and what is within two of them is not a result. All of this holds for one small
# network on one small data set: `gradlab contest` makes the same table for your own.
