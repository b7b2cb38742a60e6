# %% [markdown]
# # 6. Obstacles, and instruments to see them
#
# **Question.** A training run goes badly: the loss stalls, jumps, or falls while the model gets worse. The textbooks
# name a dozen causes, from ill-conditioning to saddles, cliffs and vanishing gradients. How does one *see* which of
# them it is?
#
# Each section takes one obstacle, shows it on the smallest example that has it, and measures it with an instrument of
# `gradlab.instruments` that works on a network just as well. Some are published results that `gradlab.experiments`
# reproduces.
#
# In this notebook a number in bold was measured by the cell above it.

# %%
# %matplotlib inline
import flax.linen as nn
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from jax.flatten_util import ravel_pytree

import gradlab
from gradlab import instruments, plots, tasks
from gradlab.experiments import edge_of_stability, gradient_norms, recurrent_cliff, saddle_escape

jax.config.update("jax_enable_x64", True)
plt.rcParams["figure.dpi"] = 80


def loss_of(task):
    """The training loss of a task whose model has no state and no noise."""
    return lambda params, batch: task.loss(params, {}, batch, None)[0]


def heights(surface, x, y):
    return jax.vmap(jax.vmap(surface.function))(jnp.stack(jnp.meshgrid(x, y), -1))


# %% [markdown]
# ## Ill-conditioning: when a small step is too long
#
# To second order, with $g$ the gradient and $H$ the Hessian, a step of gradient descent changes the loss by
#
# $$ L(x - \eta g) - L(x) \approx -\eta\, g^\top g + \tfrac12 \eta^2\, g^\top H g. $$
#
# It *rises* as soon as $\tfrac12 \eta\, g^\top H g > g^\top g$; the best rate is $\eta^* = g^\top g / g^\top H g$, and
# twice that is the critical one. `step_probe` measures these numbers at any step of any optimizer. Here along gradient
# descent on a network with 20 tanh units that learns a cubic.

# %%
rate, task = 0.1, edge_of_stability.chebyshev()
run = gradlab.fit(task, gradlab.sgd(rate), steps=1500, key=1, trajectory=True, eval_every=1500)
unravel = ravel_pytree(run.params)[1]
loss = loss_of(task)


def probe(flat):
    params = unravel(flat)
    step = jax.tree.map(lambda g: -rate * g, jax.grad(loss)(params, task.train))
    return instruments.step_probe(loss, params, task.train, step, rate)


found = jax.jit(lambda points: jax.lax.map(probe, points))(jnp.asarray(run.trajectory[::5]))
rises, too_long = np.asarray(found.actual > 0), np.asarray(rate > found.critical_rate)
late = np.arange(len(rises)) >= 200
print(f"in the first 500 steps the loss rises in a share of {rises[:100].mean():.2f} of the steps")
print(
    f"in the last 500 steps in {rises[late].mean():.1f}; the criterion tells right in {np.mean(rises == too_long):.1f}"
)

edge = edge_of_stability.gradient_descent(steps=2000)
print(f"sharpness in units of 2 / rate: {edge.ratio[0]:.1f} at first, {np.median(edge.late()):.1f} in the end")
fig, (left, right) = plt.subplots(1, 2, figsize=(10.5, 3.6), layout="constrained")
left.semilogy(5 * np.arange(len(rises)), found.critical_rate, lw=0.8, color=plots.PALETTE[0], label="critical rate")
left.axhline(rate, color=plots.PALETTE[1], ls="--", label="learning rate")
left.set(xlabel="step", ylabel=r"$2\, g^\top g / g^\top H g$")
left.legend(frameon=False)
plots.sharpness_curves(edge.steps, edge.sharpness, edge.threshold, ax=right)
right.legend(frameon=False, loc="lower right")
plt.show()

# %% [markdown]
# The run does not diverge, and it does not settle either. The sharpness, the largest eigenvalue of $H$, grows until it
# is at $2 / \eta$ and stays there (Cohen et al., 2021, "the edge of stability"): the run keeps itself ill-conditioned
# for its own learning rate. On the left, the critical rate along the gradient is far above the learning rate most of
# the time; where it dips below, the gradient has turned into the sharpest direction, and the loss rises until it has
# left it. So the step that is too long is one in a single direction, and it is this direction that sets the rate for
# all others.
#
# ## "The gradient must be small by now"
#
# It need not. A text whose formulas were lost in printing seems to say that a strong gradient and success go together.
# The original (Goodfellow, Bengio and Courville, figure 8.1) says: the norm of the gradient often *grows* during
# training that succeeds, so a low loss is no sign of a critical point. A perceptron with six hidden layers on the
# digits shows it.

# %%
norms = gradient_norms.gradient_norms(steps=320)
above = norms.norm / norms.norm[0]
good = int(np.argmax(norms.valid_accuracy > 0.9))
print(f"90 % of the validation examples are right, and the gradient is 3 times as long as at first: {above[good] > 3}")

fig, (left, right) = plt.subplots(1, 2, figsize=(10, 3.4), layout="constrained")
left.errorbar(norms.steps, norms.norm, norms.spread, marker="o", ms=4, color=plots.PALETTE[0], capsize=2)
left.set(xlabel="step", ylabel="norm of a batch's gradient", ylim=(0, None))
right.plot(norms.steps, 1 - norms.valid_accuracy, "s--", ms=4, color=plots.PALETTE[1])
right.set(xlabel="step", ylabel="validation error", ylim=(0, 1))
plt.show()

# %% [markdown]
# So before looking for local minima or saddles, plot the gradient norm. If it never gets small, neither is the
# problem. (The other way round proves nothing: a small gradient may be a minimum, a saddle, a plateau or a vanishing
# gradient.)
#
# ## Saddles, and the method that jumps to them
#
# Newton's step $-H^{-1} g$ goes to the critical point of the local quadratic, of whatever kind. On $x^2 - y^2 +
# \tfrac12 y^4$ from a point near the ridge that is the saddle. With $|H|$ in place of $H$ (Dauphin et al., 2014) the
# same step leaves it.

# %%
escape, surface = saddle_escape.on_surface(), tasks.bounded_saddle()
for name in ("newton", "saddle_free"):
    end = jnp.asarray(getattr(escape, name)[-1])
    point = instruments.classify(lambda p, batch: surface.function(p), end, None, jax.random.key(0))
    print(f"{name} ends at a {instruments.KINDS[point.kind]}: curvatures {point.smallest:.1f} and {point.largest:.1f}")

fig, (left, right) = plt.subplots(1, 2, figsize=(11, 3.6), layout="constrained")
x = np.linspace(-1.5, 1.5, 61)
paths = {"saddle-free Newton": escape.saddle_free, "Newton": escape.newton}
plots.trajectory(x, x, heights(surface, x, x), paths, minima=surface.minima, saddles=surface.saddles, ax=left)
left.get_legend().set(bbox_to_anchor=(-0.15, 1.0), loc="upper right")
rng, sizes = np.random.default_rng(0), np.arange(1, 6)
share = []
for n in sizes:
    a = rng.normal(size=(200_000, n, n))
    share.append(np.mean(np.linalg.eigvalsh(a + a.transpose(0, 2, 1))[:, 0] > 0))
print("share of random Hessians without a negative curvature:", ", ".join(f"{p:.2f}" for p in share[:3]))
right.semilogy(sizes, share, "o-", color=plots.PALETTE[0], label="random symmetric matrices")
right.semilogy(sizes, 0.5**sizes, "s--", color=plots.PALETTE[1], label="coin flips, $2^{-n}$")
right.set(xlabel="dimension n", ylabel="no negative curvature", xticks=sizes)
right.legend(frameon=False)
plt.show()

# %% [markdown]
# Why saddles at all? The usual argument flips a coin for the sign of each of $n$ curvatures: all are positive with
# probability $2^{-n}$. It errs on the cautious side. Eigenvalues of a random symmetric matrix repel each other, and it
# is far less likely that none is negative: for two dimensions $(2 - \sqrt 2) / 4$, **0.15** instead of 0.25, for three
# **0.03** instead of 0.125. (Networks are not random matrices: at a low loss most of their critical points are minima,
# which is the other half of the argument.)
#
# ## Flat regions, the wrong side of the hill, and no minimum at all
#
# Three ways in which following the slope leads nowhere. *A plain*: on $1 - e^{-(x^2 + y^2)/2}$, far out, gradient and
# Hessian vanish, and the curvature is negative, so that Newton walks away from the only minimum. *A hill*: the path on
# its left side leads down to an asymptote, and each step is right. *No minimum*: the logistic loss of separable data,
# that falls for ever.

# %%
plain = tasks.plateau()
for name, tx in {"gradient descent": gradlab.sgd(0.5), "Adam": gradlab.adam(0.1), "Newton": gradlab.newton()}.items():
    run = gradlab.fit(tasks.surface_task(plain), tx, steps=100, trajectory=True)
    distance = np.linalg.norm(run.trajectory, axis=1)
    print(
        f"plain, {name}: distance {distance[0]:.1f} at first, {distance[5]:.1f} after 5 steps, ended by: {run.reason}"
    )

bump = lambda x: jnp.exp(-(x[0] ** 2)) - jnp.exp(-((x[0] - 3) ** 2) / 2)
hill = tasks.make_surface("hill", bump, [0.5], minima=[[3.0]], values=[-1.0])
starts = {"from -0.5": -0.5, "from 0.5": 0.5}
tasks_from = {name: tasks.surface_task(hill, start=[start]) for name, start in starts.items()}
runs = {name: gradlab.fit(task, gradlab.sgd(0.3), steps=60, trajectory=True) for name, task in tasks_from.items()}
paths = {name: run.trajectory[:, 0] for name, run in runs.items()}
print("hill, ends: " + ", ".join(f"{name} at {path[-1]:.1f}" for name, path in paths.items()))

logistic = tasks.make_surface("logistic", lambda w: jax.nn.softplus(-w[0]), [0.0])
run = gradlab.fit(tasks.surface_task(logistic), gradlab.sgd(1.0), steps=1000, trajectory=True, eval_every=1000)
print(f"logistic loss: w = {run.trajectory[99, 0]:.1f} after 100 steps, {run.trajectory[-1, 0]:.1f} after 1000")
grid = np.linspace(-4, 5, 200)
curve = jax.vmap(lambda x: hill.function(x[None]))(jnp.asarray(grid))
upper, _ = plots.iterates(grid, curve, paths, minima=[3.0], title="a start on the wrong side of the hill")
upper.figure

# %% [markdown]
# From the left the run is at **-2.4** after 60 steps and will be near $-\infty$ one day, at a loss of 0, while a loss
# of $-1$ lies behind the hill. The separable data drive $w$ up like $\log t$: from **4.6** at step 100 to **6.9** at
# step 1000. No instrument that looks at one point sees any of this; the remedy is a good start, not a better step.
#
# ## Cliffs, and clipping
#
# A recurrent network with one unit, $h_t = w\, \sigma(h_{t-1}) + b$, has a wall in its loss where the recurrence
# bifurcates (Pascanu et al., 2013). Descent meets a huge gradient there. Clipping the norm of the gradient keeps the
# direction and forgets the length.

# %%
runs = {"plain": recurrent_cliff.recurrent_cliff(max_norm=None), "clipped to 0.2": recurrent_cliff.recurrent_cliff()}
for name, run in runs.items():
    print(f"{name}: loss {run.loss[0]:.2f} to {run.loss[-1]:.2f}, a step longer than 2: {run.longest_step > 2}")
unit = recurrent_cliff.one_unit()
x, y = np.linspace(3.5, 8, 91), np.linspace(-4.5, 4.5, 91)
paths = {name: run.path for name, run in runs.items()}
ax = plots.trajectory(x, y, heights(unit, x, y), paths, labels=("w", "b"), title="the cliff of a recurrent unit")
ax.figure

# %% [markdown]
# The plain run is thrown far off onto a plateau of height **0.09**, where it stays. The clipped one takes steps of at
# most 0.2, stays at the wall and descends beside it. Clip for explosion; but never *amplify* a vanishing gradient:
# that would amplify its noise.
#
# ## Vanishing and exploding gradients
#
# Repeated multiplication, $h_t = W^t h_0 = V\,\mathrm{diag}(\lambda)^t\, V^{-1} h_0$, explodes where $|\lambda| > 1$
# and vanishes where all are below. That is the law for large $t$; on the way a matrix that is not normal may do the
# opposite. With non-linear layers `backprop_profile` measures it: the gradient at each of 30 tanh layers, their
# matrices orthogonal times a scale.

# %%
powers = instruments.matrix_powers(jnp.array([[0.9, 0.8], [0.0, 0.8]]), jnp.array([0.0, 1.0]), 60)
lengths = np.exp(np.asarray(powers.log_norms))
print(f"eigenvalues 0.9 and 0.8: the vector grows to {lengths.max():.2f}, then vanishes: {lengths[-1]:.3f} at t = 60")

depth, width = 30, 64
draws = jax.random.normal(jax.random.key(0), (depth, width, width))
matrices = [jnp.linalg.qr(draw)[0] for draw in draws]
batch = jax.random.normal(jax.random.key(1), (16, width))
layers = [lambda w, h: jnp.tanh(h @ w)] * depth
tapped = instruments.layer_taps(layers, lambda output, batch: jnp.mean(jnp.sum(output**2, -1)))
profile = jax.jit(lambda scale: instruments.backprop_profile(tapped, [scale * w for w in matrices], batch))
fig, (left, right) = plt.subplots(1, 2, figsize=(10, 3.4), layout="constrained")
left.semilogy(lengths, color=plots.PALETTE[0])
left.set(xlabel="t", ylabel=r"$|W^t h_0|$", title=r"$\lambda = 0.9,\ 0.8$")
for index, scale in enumerate((0.8, 1.0, 1.2, 2.0)):
    signal = profile(scale).grad_norms
    change = float(jnp.log10(signal[0] / signal[-1]))
    print(f"scale {scale}: from the last layer to the input the gradient changes by 10^({change:+.1f})")
    style = {"color": plots.PALETTE[index], "ls": plots.style.DASHES[index]}
    right.semilogy(signal / signal[-1], label=f"scale {scale}", **style)
right.set(xlabel="layer", ylabel="gradient / gradient at the output", title="30 tanh layers")
right.legend(frameon=False)
plt.show()

# %% [markdown]
# The exponents: **-3.5** at scale 0.8, and **+1.8** at 2.0. At 1.0 it is still **-1.4**, because tanh is flat away
# from 0; somewhat above the signal is kept. A start that keeps it is worth more than any optimizer that tries to mend
# it.
#
# ## Surrogate losses, and stopping in time
#
# We want few errors (the 0-1 loss), but its gradient is zero almost everywhere; so we descend on a surrogate, the
# negative log-likelihood, and hope. The surrogate goes on after the errors are gone: it then makes right answers more
# certain. With 200 digits, three tenths of their labels replaced at random, that does harm.

# %%


class Net(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Dense(64)(x))
        return nn.Dense(10)(x)


digits, rng = tasks.digits(), np.random.default_rng(0)
labels = digits.train["y"][:200]
wrong = np.where(rng.random(200) < 0.3, rng.integers(0, 10, 200), labels)
task = tasks.flax_task(Net(), {"x": digits.train["x"][:200], "y": wrong}, valid=digits.valid)
plan = {"steps": 500, "batch_size": 50, "eval_every": 10, "trajectory": True}
run = gradlab.fit(task, gradlab.adam(3e-3), **plan)
stopped = gradlab.fit(task, gradlab.adam(3e-3), **plan, stop=gradlab.Patience(5))
unravel = ravel_pytree(run.params)[1]


@jax.jit
def on_training_set(flat):
    params = unravel(flat)
    slope = gradlab.global_norm(jax.grad(loss_of(task))(params, task.train))
    return {**task.metrics(params, {}, task.train), "slope": slope}


seen = jax.lax.map(on_training_set, jnp.asarray(run.trajectory[::10]))
print(
    f"validation accuracy: {stopped.final['accuracy']:.2f} where patience stops, {run.final['accuracy']:.2f} at the end"
)
at = stopped.steps // 10
print(f"length of the gradient there {seen['slope'][at]:.2f}, at the end {seen['slope'][-1]:.3f}")
print(f"training accuracy at the end: {seen['accuracy'][-1]:.2f}")

fig, (left, right) = plt.subplots(1, 2, figsize=(10, 3.6), layout="constrained")
steps = 10 * np.arange(len(seen["loss"]))
left.semilogy(steps, seen["loss"], color=plots.PALETTE[0], label="training")
left.semilogy(run.eval_step, run.metrics["loss"], "--", color=plots.PALETTE[1], label="validation")
left.set(xlabel="step", ylabel="surrogate: negative log-likelihood")
right.plot(steps, 1 - seen["accuracy"], color=plots.PALETTE[0], label="training")
right.plot(run.eval_step, 1 - run.metrics["accuracy"], "--", color=plots.PALETTE[1], label="validation")
right.set(xlabel="step", ylabel="what we want: share of errors", ylim=(0, 0.5))
for ax in (left, right):
    ax.axvline(stopped.steps, color="0.5", lw=1, ls=":", label="patience stops")
left.legend(frameon=False)
plt.show()

# %% [markdown]
# Learning the wrong labels by heart costs accuracy on new digits. Early stopping ends the run while the gradient is
# still long: training for a purpose does not end at a critical point.
#
# ## What a landscape looks like, and what a picture of it hides
#
# A loss is drawn on a plane through the trained weights, along two random directions that have the scale of each
# filter (Li et al., 2018). Ten hidden layers, with skip connections and without, trained alike.

# %%


class Deep(nn.Module):
    skip: bool

    @nn.compact
    def __call__(self, x):
        x = nn.Dense(24)(x)
        for _ in range(10):
            h = nn.relu(nn.Dense(24)(x))
            x = x + h / 4 if self.skip else h
        return nn.Dense(10)(x)


batch, xs = jax.tree.map(lambda leaf: leaf[:128], digits.train), np.linspace(-1, 1, 21)


@jax.jit(static_argnums=0)
def picture(loss, params):
    directions = instruments.random_directions(jax.random.key(0), params)
    return instruments.plane(loss, params, batch, directions, xs, xs, batch_size=21)


fig, panels = plt.subplots(1, 2, figsize=(10.5, 4.2), layout="constrained")
for ax, (title, skip) in zip(panels, {"with skip connections": True, "without": False}.items(), strict=True):
    task = tasks.flax_task(Deep(skip), digits.train)
    run = gradlab.fit(task, gradlab.adam(3e-3), steps=300, batch_size=64, eval_every=300)
    losses = np.asarray(picture(loss_of(task), run.params))
    bends_down = np.mean(np.diff(losses, n=2, axis=1) < 0)
    print(f"{title}: a share of {bends_down:.1f} bends down; the median loss is above 10: {np.median(losses) > 10}")
    plots.landscape(xs, xs, losses, title=title, ax=ax)
plt.show()

# %% [markdown]
# With skip connections the plane is a bowl that bends up everywhere along the lines of the grid. Without them it is
# steeper and no longer convex. The picture is honest about the plane, but a path of training does not lie in one.
# `path_directions` finds the plane that holds most of a path, and says how much a random walk's plane would.

# %%
points = jax.vmap(unravel)(jnp.asarray(stopped.trajectory[::4]))
found = instruments.path_directions(points)
task = tasks.flax_task(Net(), {"x": digits.train["x"][:200], "y": wrong})
path = instruments.project_path(loss_of(task), found.center, task.train, points, found.directions)
first, second = np.asarray(path.projection.coordinates).T
x, y = (np.linspace(c.min() - 0.4 * np.ptp(c), c.max() + 0.4 * np.ptp(c), 21) for c in (first, second))
losses = instruments.plane(loss_of(task), found.center, task.train, found.directions, x, y, batch_size=21)
print(f"the first direction explains {found.shares[0]:.2f} of the path, of a random walk {found.null[0]:.2f}")
ax = plots.path_plane(
    x,
    y,
    losses,
    path.projection.coordinates,
    path_losses=path.losses,
    distance=path.projection.distance,
    shares=found.shares,
    null=found.null,
)
ax.figure.set_dpi(80)
ax.figure

# %% [markdown]
# A share near **0.81** says nothing: every random walk has it.
#
# And each minimum in such a picture stands for very many. Hidden units may change places, and a unit of a ReLU layer
# may grow by a factor while its outgoing weights shrink by it: the function stays the same.

# %%
spec = instruments.chain(stopped.params, ["Dense_0", "Dense_1"])
(units,) = {name for axes in spec.values() for name in axes if name}
order, factors = rng.permutation(64), rng.uniform(0.5, 2.0, 64)
other = instruments.permute(stopped.params, spec, {units: order})
other = instruments.rescale(other, spec, {units: factors})
here, there = (loss_of(task)(params, task.train) for params in (stopped.params, other))
apart = gradlab.global_norm(jax.tree.map(jnp.subtract, stopped.params, other))
print(f"losses {here:.3f} and {there:.3f} at weights that are {apart:.0f} apart")
print(f"orders of the units: 10 to the power {instruments.log10_orders(other, spec):.0f}")

# %% [markdown]
# The same loss at weights far away, ten to the power **89** times over, and a continuum of scales for each. Local
# minima of this kind are no obstacle: they are equally good.
#
# **Answer.** Measure before you guess.
#
# | what you see | look at | what it may be |
# |---|---|---|
# | loss bounces | `step_probe`, `extreme`: sharpness and $2 / \eta$ | edge of stability: a lower rate |
# | loss stalls, gradient long | gradient norm, noise (notebook 3) | not a critical point: noise, or conditioning |
# | loss stalls, gradient short | `classify`, `backprop_profile` | saddle, plain, vanishing gradient |
# | one enormous step | `health`: sizes of the steps | a cliff: clip |
# | training better, validation worse | both curves | stop in time |
