# %% [markdown]
# # 5. A learning rate for every parameter
#
# **Question.** A valley that is a hundred times steeper across than along allows only one learning rate: the one that
# the steep side bears. Can every parameter have a rate of its own, found from its own gradients? This notebook follows
# the idea from delta-bar-delta (1988) over AdaGrad and RMSProp to Adam and its repairs, measures what these methods
# really multiply a gradient by, and shows where the idea ends.
#
# In this notebook a number in bold was measured by the cell above it.

# %%
# %matplotlib inline
import flax.linen as nn
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import gradlab
from gradlab import plots, tasks

jax.config.update("jax_enable_x64", True)  # the laws below hold to many digits
plt.rcParams["figure.dpi"] = 80


def play(tx, gradients):
    """The updates that an optimizer makes of a sequence of gradients, and its states on the way."""

    def one(state, gradient):
        update, state = tx.update(gradient, state, gradient)
        return state, (update, state)

    return jax.lax.scan(one, tx.init(gradients[0]), gradients)[1]


# %% [markdown]
# ## Rates that learn from signs: delta-bar-delta
#
# While a partial derivative keeps its sign, the step was too short, so the rate of that parameter grows; when the sign
# flips, the step was too long, so the rate shrinks. With $\bar g$ the average of the gradients before:
#
# $$ s \leftarrow s + \kappa \;\text{ if } \bar g\, g > 0, \qquad s \leftarrow (1 - \varphi)\, s \;\text{ if } \bar g\,
# g < 0, \qquad x \leftarrow x - s\, g. $$
#
# The valley is $f(x) = \tfrac12 (x_1^2 + 100\, x_2^2)$. One rate for both axes can at best be $2 / (1 + 100)$.

# %%
valley = tasks.quadratic(condition=100.0)
task = tasks.surface_task(valley)
entrants = {
    "one rate, the best": gradlab.sgd(2 / 101),
    "delta-bar-delta": gradlab.delta_bar_delta(0.004, kappa=0.02, phi=0.5),
}
runs = {name: gradlab.fit(task, tx, steps=50, trajectory=True) for name, tx in entrants.items()}
for name, run in runs.items():
    print(f"{name}: loss {run.loss[0]:.1f} at the start, {run.loss[30]:.1e} at step 30")

path = jnp.asarray(runs["delta-bar-delta"].trajectory)
_, states = play(entrants["delta-bar-delta"], jax.vmap(jax.grad(valley.function))(path))
rates = states[0].step_sizes
print(f"rates at step 30: {rates[30, 0]:.2f} along the valley; across it {rates[10:31, 1].mean():.3f} on average")

fig, (left, right) = plt.subplots(1, 2, figsize=(10, 3.6), layout="constrained")
plots.race({name: run.loss for name, run in runs.items()}, ax=left, floor=1e-8)
left.legend(frameon=False, loc="lower left")
right.plot(rates[:50, 0], color=plots.PALETTE[0], label="along the valley, curvature 1")
right.plot(rates[:50, 1], color=plots.PALETTE[1], ls="--", label="across it, curvature 100")
right.set(yscale="log", xlabel="step", ylabel="rate of the parameter")
right.legend(frameon=False)
plt.show()

# %% [markdown]
# Each axis gets the rate that suits it: across the valley the rate hovers about **0.019**, near the largest stable
# one, $2/100$, and along it the rate grows to **0.60** in 30 steps. At step 30 the best single rate is at a loss of
# **15**.
#
# The texts say that this works **with full batches only**. Why? Feed it pure noise, as a minibatch does near a
# minimum: the signs agree half of the time, so growth $\kappa/2$ and shrinkage $\varphi s / 2$ balance at $s = \kappa
# / \varphi$, whatever the curvature. The rate no longer knows anything about the problem.

# %%
noise = jax.random.normal(jax.random.key(0), (1000, 1000))
_, states = play(entrants["delta-bar-delta"], noise)
print(f"mean rate on noise: {states[0].step_sizes[-500:].mean():.3f}, kappa / phi = {0.02 / 0.5:.3f}")

# %% [markdown]
# ## Rates that learn from sizes: AdaGrad, RMSProp, Adam
#
# Signs of noise do not average, squares do. These methods divide the gradient by the root of a sum, or an average, of
# its squares:
#
# $$ \text{AdaGrad: } r_k = r_{k-1} + g^2, \qquad \text{RMSProp: } r_k = \rho\, r_{k-1} + (1 - \rho)\, g^2, \qquad
# x \leftarrow x - \frac{\alpha\, g}{\sqrt{r_k}}. $$
#
# What does that do to a step? Take a constant gradient. Then all is known: AdaGrad's step is $\alpha / \sqrt k$;
# RMSProp's is $\alpha / \sqrt{1 - \rho^k}$, from $\alpha / \sqrt{1 - \rho}$ at first to $\alpha$; Adam's is $\alpha$
# from the first step on. None depends on the size of the gradient. Three sizes, a million apart, show it.

# %%
k, rho = np.arange(1, 1001), 0.99
constant = jnp.tile(jnp.array([1e-3, 1.0, 1e3]), (len(k), 1))
makes = {
    "AdaGrad": gradlab.adagrad(1.0, initial_accumulator_value=0.0, eps=0.0),
    "RMSProp": gradlab.rmsprop(1.0, decay=rho, eps=0.0),
    "Adam": gradlab.adam(1.0, eps=0.0),
    "Adam without bias correction": gradlab.adam(1.0, eps=0.0, bias_correction=False),
}
laws = {
    "AdaGrad": k**-0.5,
    "RMSProp": (1 - rho**k) ** -0.5,
    "Adam": np.ones(len(k)),
    "Adam without bias correction": (1 - 0.9**k) / np.sqrt(1 - 0.999**k),
}
steps = {name: -np.asarray(play(tx, constant)[0]) for name, tx in makes.items()}
worst = max(np.abs(steps[name] / laws[name][:, None] - 1).max() for name in laws)
print(f"all steps follow their laws, for all three gradients: {worst < 1e-9}")
longest = steps["Adam without bias correction"][:, 1]
print(f"first steps: RMSProp {steps['RMSProp'][0, 1]:.2f}, Adam without correction {longest[0]:.2f}")
print(f"the longest step without correction is number {longest.argmax() + 1}: {longest.max():.2f}")

fig, ax = plt.subplots(figsize=(8, 3.8), layout="constrained")
for index, (name, step) in enumerate(steps.items()):
    ax.loglog(k, step[:, 0], color=plots.PALETTE[index], lw=2, label=name)
    ax.loglog(k, laws[name], "k:", lw=1, label="the laws" if index == 3 else None)
ax.set(xlabel="step k", ylabel="length of the step / learning rate", title="A constant gradient of any size")
ax.legend(frameon=False)
plt.show()

# %% [markdown]
# Some remarks where the texts go astray:
#
# * **Bias correction is no ornament.** Adam is sometimes written without it. Then the first step is $(1 - \beta_1) /
#   \sqrt{1 - \beta_2}$ = **3.16** learning rates long, and it gets worse before it gets better: step **12** is
#   **6.57** learning rates long. With $\hat m = m / (1 - \beta_1^k)$ and $\hat v = v / (1 - \beta_2^k)$, where $k$
#   counts from 1 (a formula with $1 - \beta^t$ and $t = 0$ divides by zero), every step is 1.
# * "A steeper axis gets the larger update" is the wrong way round: AdaGrad multiplies a gradient by $1 / \sqrt{r}$,
#   so the steeper axis gets the *smaller multiple* of its gradient, and on constant gradients all axes get the same
#   step.
# * RMSProp's average is `cache = decay * cache + (1 - decay) * g**2`. One text writes `cache += decay * cache + ...`.
#   The slip is not small: the cache then nearly *doubles* at each step, and the learning rate dies.
# * Adam's averages are one of $g$ and one of $g^2$, and the step is $\hat m / (\sqrt{\hat v} + \epsilon)$. One text
#   sets $m \leftarrow \beta_1 m - \alpha \hat v$, in which a gradient and its square are added: their units clash,
#   and $m$ is always pushed below zero. Another prints `np.sqrt(v)) + le-7`: read `/ (np.sqrt(v) + 1e-7)`.

# %%
cache = 0.0
for _ in range(50):
    cache += rho * cache + (1 - rho) * 1.0**2
print(f"cache after 50 steps with g = 1: {cache:.2e} instead of {1 - rho**50:.2f}")
print(f"the law of the slip:             {(1 - rho) / rho * ((1 + rho) ** 50 - 1):.2e}")

first, later = np.abs(play(gradlab.adadelta(), constant)[0])[[0, -1], 1]
print(f"AdaDelta's steps: {first:.4f} at first, {later:.2f} at step 1000")

# %% [markdown]
# **8.85e+12** in the place of **0.39**. And AdaDelta is not "essentially RMSProp": it multiplies by the root of an
# average of its own past steps, has no learning rate to set, and so needs no unit; but it must find its pace from
# $\sqrt{\epsilon / (1 - \rho)}$ = **0.0032** upwards.
#
# ## The first steps are the least certain: RAdam
#
# A constant gradient flatters these methods. Let the gradient be noise. After one step $\hat v$ is *one* squared
# number, and $1 / \sqrt{\hat v}$ is huge whenever that number happens to be small: its variance is infinite. RAdam
# computes the factor $r_k$ that would give the effective rate the variance it has in the end, and does not adapt at
# all while that is impossible, for the first five steps.

# %%
draws = jax.random.normal(jax.random.key(1), (300, 4000))  # steps, parameters
adapted = jnp.abs(play(gradlab.adam(1.0, b1=0.0, eps=0.0), draws)[0] / draws)
rectified = jnp.abs(play(gradlab.radam(1.0, b1=0.0, eps=0.0), draws)[0] / draws)
low, high = jnp.quantile(adapted, jnp.array([0.05, 0.95]), axis=1)
print(f"step 1: a tenth of the parameters lies outside of {low[0]:.1f} to {high[0]:.0f} times its fair rate")
print(f"spread at step 6:   Adam {adapted[5].std():.1f}, RAdam {rectified[5].std():.2f}")
print(f"spread at step 300: Adam {adapted[-1].std():.2f}, RAdam {rectified[-1].std():.2f}")

fig, (left, right) = plt.subplots(1, 2, figsize=(10, 3.6), layout="constrained")
k = np.arange(1, 301)
left.fill_between(k, low, high, color=plots.PALETTE[0], alpha=0.3, lw=0, label="Adam, 90 % of the parameters")
left.plot(k, jnp.median(rectified, 1), color=plots.PALETTE[1], ls="--", label="RAdam, median")
left.set(xscale="log", yscale="log", xlabel="step", ylabel="effective rate / learning rate")
left.legend(frameon=False)
right.loglog(k, adapted.std(1), color=plots.PALETTE[0], label="Adam")
right.loglog(k[5:], rectified.std(1)[5:], color=plots.PALETTE[1], ls="--", label="RAdam")
right.set(xlabel="step", ylabel="standard deviation of the rate")
right.legend(frameon=False)
plt.show()

# %% [markdown]
# Under Adam the parameters begin with rates from **0.5** to **18** times the fair one, by accident. RAdam holds the
# spread near between **0.01** and **0.02** throughout. A warm-up does the same by hand: it makes steps short while the
# rates are unreliable (`gradlab.untuned_linear_schedule` is such a warm-up without a number to tune).
#
# ## The other end: gradients near zero, and SAdam
#
# Where gradients are tiny the quotient has no sense left, so Adam adds $\epsilon$ to the root. With the usual
# $10^{-8}$ a parameter that hardly matters gets a rate of up to $10^8$. SAdam ("calibrating the adaptive learning
# rate") puts a softplus in its place, $\tfrac1\beta \log(1 + e^{\beta \sqrt v})$, which is never below $\log(2) /
# \beta$. What is there to calibrate in a real network? We train one on the digits and read $\sqrt{\hat v}$ from Adam's
# state.

# %%


class Net(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(10)(nn.relu(nn.Dense(64)(x)))


digits = tasks.digits()
network = tasks.flax_task(Net(), digits.train)
state = gradlab.fit(network, gradlab.adam(1e-3), steps=100, batch_size=64).run.opt_state[0]
roots = np.concatenate([np.sqrt(v / (1 - 0.999**100)).ravel() for v in jax.tree.leaves(state.nu)])
low, high = np.quantile(roots, [0.05, 0.95])
print(
    f"90 % of the roots lie between {low:.3f} and {high:.3f}; a share of {np.mean(roots < 0.02):.2f} lies below 1 / 50"
)

g = jnp.logspace(-10, 1, 200)
forms = {
    r"Adam, $\epsilon = 10^{-8}$": gradlab.adam(1.0, b1=0.0, b2=0.0),
    r"Adam, $\epsilon = 10^{-3}$": gradlab.adam(1.0, b1=0.0, b2=0.0, eps=1e-3),
    r"SAdam, $\beta = 50$": gradlab.sadam(1.0, b1=0.0, b2=0.0),
}
fig, (left, right) = plt.subplots(1, 2, figsize=(10, 3.6), layout="constrained")
for index, (name, tx) in enumerate(forms.items()):
    rate = -play(tx, g[None])[0][0] / g
    print(f"{name}: rates up to {rate.max():.3g}")
    left.loglog(g, rate, label=name, lw=2, color=plots.PALETTE[index], ls=plots.style.DASHES[index])
left.set(xlabel=r"$\sqrt{v}$", ylabel="effective rate / learning rate")
left.legend(frameon=False)
right.hist(roots[roots > 0], bins=np.logspace(-6, 0, 60), color=plots.PALETTE[0])
right.set(xscale="log", xlabel=r"$\sqrt{\hat v}$ after 100 steps", ylabel="parameters of the network")
plt.show()

# %% [markdown]
# The softplus caps the rates at $\beta / \log 2$ = **72**, smoothly: below $1/\beta$ SAdam turns into momentum with
# one rate for all. So it wants a learning rate about a hundred times Adam's. And $\beta$ has a unit, one over that of
# a gradient: a share of **0.85** of this network's parameters lies below $1 / 50$, so SAdam with the published $\beta$
# is here closer to momentum than to Adam. The roots themselves span a factor of ten only, and nothing in this network
# needs the cap.
#
# ## What a rate for every parameter cannot do
#
# Back to a valley, now in ten dimensions and ten thousand times as steep across as along. For each method the best of
# 25 rates; once with the valley along the axes, once with the same valley turned.

# %%
methods = {
    "gradient descent": gradlab.sgd,
    "momentum": lambda learning_rate: gradlab.sgd(learning_rate, momentum=0.9),
    "AdaGrad": lambda learning_rate: gradlab.adagrad(learning_rate, initial_accumulator_value=0.0),
    "Adam": gradlab.adam,
}
plan = {"trials": 25, "sampler": "grid", "steps": 150, "chunk": 25}
fig, panels = plt.subplots(1, 2, figsize=(10, 3.6), layout="constrained")
for ax, (title, rotation) in zip(panels, {"along the axes": None, "turned": 0}.items(), strict=True):
    valley = tasks.surface_task(tasks.quadratic(condition=1e4, dim=10, rotation=rotation))
    curves = {}
    for name, make in methods.items():
        result = gradlab.sweep(valley, make, {"learning_rate": {"log": [1e-4, 1.0]}}, **plan)
        loss = result.curves(result.best()["uid"].iloc[0])["loss"][0]
        curves[name] = np.maximum(loss, 1e-6)
    print(f"{title}: " + ", ".join(f"{name} {loss[-1]:.1f}" for name, loss in curves.items()))
    plots.race(curves, ax=ax, title=f"the valley {title}")
    ax.set_ylim(1e-6, 1e5)
    ax.legend(frameon=False, loc="upper right")
plt.show()

# %% [markdown]
# Gradient descent and momentum do not notice the turn: they end at **10.9** and **0.3** in both. AdaGrad and Adam do:
# along the axes each coordinate is a problem of its own, and the condition number has no meaning for them; turned, it
# is back, and they end at **6.0** and **0.7**, where those two are. **A rate for every parameter is a diagonal matrix,
# and helps as far as the curvature is diagonal.** The root of averaged squares is not "an approximation of the second
# derivative", as some texts have it. Methods for whole matrices (Shampoo, SOAP, Muon in notebook 8) start here.
#
# Where it does help is in problems whose parameters differ in how *often* they matter. Words are like that: word
# number $k$ has a frequency of about $1/k$. In the smallest such model, softmax regression with one input for each
# class, gradient descent learns a class in a time inverse to its frequency, and Adam all at once.

# %%
classes, frequency = 50, 1 / jnp.arange(1, 51)
frequency /= frequency.sum()


def losses_of_classes(tx):
    losses = lambda w: -jnp.diag(jax.nn.log_softmax(w))

    def one(carry, _):
        w, state = carry
        updates, state = tx.update(jax.grad(lambda w: frequency @ losses(w))(w), state, w)
        return (gradlab.apply_updates(w, updates), state), losses(w)

    start = jnp.zeros((classes, classes))
    return jax.lax.scan(one, (start, tx.init(start)), None, length=400)[1]


fig, panels = plt.subplots(1, 2, figsize=(10, 3.4), layout="constrained", sharey=True)
for ax, (name, tx) in zip(
    panels, {"gradient descent": gradlab.sgd(5.0), "Adam": gradlab.adam(0.05)}.items(), strict=True
):
    losses = np.asarray(losses_of_classes(tx))
    print(f"{name}: loss at step 400 of the commonest class {losses[-1, 0]:.1e}, of the rarest {losses[-1, -1]:.1e}")
    for index, number in enumerate((1, 5, 20, 50)):
        ax.plot(
            losses[:, number - 1], color=plots.PALETTE[index], ls=plots.style.DASHES[index], label=f"class {number}"
        )
    ax.set(xlabel="step", yscale="log", title=name)
panels[0].set_ylabel("loss of the class")
panels[0].legend(frameon=False)
plt.show()

# %% [markdown]
# ## Where Adam fails and AMSGrad does not
#
# A short memory forgets rare but important gradients. The example of Reddi, Kale and Kumar: $x$ in $[-1, 1]$, and
# every third gradient is $+3$, the others $-1$. The sum is positive, so $x = -1$ is best. With $\beta_1 = 0$, $\beta_2
# = 0.1$ Adam divides the rare large gradient by its own size and the two small ones by theirs: it walks to the *worst*
# point. AMSGrad divides by the largest average so far, which does not forget.

# %%
gradients = jnp.where(jnp.arange(10_000) % 3 == 0, 3.0, -1.0)
rate = gradlab.inverse_sqrt_schedule(0.1, warmup_steps=1)


def positions(tx):
    tx = gradlab.chain(tx, gradlab.project_box(-1.0, 1.0))

    def one(carry, gradient):
        x, state = carry
        update, state = tx.update(gradient, state, x)
        x = gradlab.apply_updates(x, update)
        return (x, state), x

    return jax.lax.scan(one, (jnp.zeros(()), tx.init(jnp.zeros(()))), gradients)[1]


fig, ax = plt.subplots(figsize=(8, 3.4), layout="constrained")
contest = {
    r"Adam, $\beta_2 = 0.1$": gradlab.adam(rate, b1=0.0, b2=0.1),
    r"AMSGrad, $\beta_2 = 0.1$": gradlab.amsgrad(rate, b1=0.0, b2=0.1),
    r"Adam, $\beta_2 = 0.99$": gradlab.adam(rate, b1=0.0, b2=0.99),
}
for index, (name, tx) in enumerate(contest.items()):
    x = positions(tx)
    print(f"{name}: x = {x[-1]:+.1f} after {len(x)} steps")
    ax.semilogx(1 + np.arange(len(x)), x, color=plots.PALETTE[index], ls=plots.style.DASHES[index], label=name)
ax.axhline(-1, color="0.6", lw=0.8)
ax.set(xlabel="step", ylabel="x", title="the best point is -1")
ax.legend(frameon=False)
plt.show()

# %% [markdown]
# Adam ends at **+1.0**, AMSGrad at **-1.0**. To be fair: Adam with a memory long enough for the problem ($\beta_2 =
# 0.99$) ends at the right place too. The example says "choose $\beta_2$ so that the average spans the rare events",
# not "never use Adam".
#
# ## The race
#
# All of them from one start on Beale's function, at learning rates chosen by hand, 150 steps.

# %%
beale = tasks.beale()
field = {
    "gradient descent": gradlab.sgd(0.01),
    "momentum": gradlab.sgd(0.01, momentum=0.9),
    "Nesterov": gradlab.sgd(0.01, momentum=0.9, nesterov=True),
    "AdaGrad": gradlab.adagrad(0.5, initial_accumulator_value=0.0),
    "RMSProp": gradlab.rmsprop(0.02),
    "AdaDelta": gradlab.adadelta(),
    "Adam": gradlab.adam(0.1),
}
race = {name: gradlab.fit(tasks.surface_task(beale), tx, steps=150, trajectory=True) for name, tx in field.items()}
for name, run in race.items():
    print(f"{name:16s} ends {np.linalg.norm(run.trajectory[-1] - beale.minima[0]):.2f} from the minimum")

x, y = np.linspace(0.5, 4.5, 81), np.linspace(-1.5, 1.5, 81)
height = jax.vmap(jax.vmap(beale.function))(jnp.stack(jnp.meshgrid(x, y), -1))
fig, ax = plt.subplots(figsize=(9, 4.4), layout="constrained")
plots.trajectory(x, y, height, {name: run.trajectory for name, run in race.items()}, minima=beale.minima, ax=ax)
plt.show()

# %% [markdown]
# **Answer.** A rate for every parameter, found from the sizes of its gradients, makes steps that do not depend on the
# scale of the problem, which is why one learning rate serves so many models. It costs care at both ends: few gradients
# at the start (correct the bias, warm up or rectify) and gradients near zero ($\epsilon$ or a softplus). It cannot
# turn an axis, and it forgets at the rate that you tell it. A race such as the last one shows how the methods move,
# not which is best: the rates were chosen by hand. Notebook 7 compares optimizers properly.
