# %% [markdown]
# # 3. Stochastic gradients: how much data does a step need?
#
# **Question.** The loss of a model is a mean over examples, and so is its gradient. A mean can be estimated from a few
# of them. How few are enough, what does the noise do to the result, and what do we have to do about it?
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
from gradlab import instruments, plots
from gradlab.tasks import digits, flax_task, make_task

jax.config.update("jax_enable_x64", True)
plt.rcParams["axes.prop_cycle"] = plt.cycler(color=plots.PALETTE)

# %% [markdown]
# ## A line through a hundred points
#
# The data are $y = 3x + u$ with $u$ uniform between 0 and 1: a line of slope about 3 and height about $\frac12$. The
# loss is the mean squared error, an *empirical risk*
#
# $$J(w, b) = \frac1N \sum_{i=1}^N (w x_i + b - y_i)^2.$$

# %%
rng = np.random.default_rng(1)
x = rng.random(100)
data = {"x": x, "y": 3 * x + rng.random(100)}


def start(key):
    return jnp.zeros(2), {}


def squared_error(p, state, batch, key):
    return jnp.mean((p[0] * batch["x"] + p[1] - batch["y"]) ** 2), state


line = make_task(start, squared_error, train=data)
J = jax.jit(lambda p: squared_error(p, {}, data, None)[0])
best = np.linalg.lstsq(np.stack([x, np.ones(100)], 1), data["y"], rcond=None)[0]
run = gradlab.fit(line, gradlab.sgd(0.01), steps=1000)
curvatures = np.linalg.eigvalsh(jax.hessian(J)(best))
left = (1 - 0.01 * curvatures[0]) ** 1000
print(f"least squares: slope {best[0]:.3f}, height {best[1]:.3f}, J = {J(best):.4f}")
print(f"1000 steps of descent: slope {run.params[0]:.3f}, height {run.params[1]:.3f}, J = {J(run.params):.4f}")
print(f"curvatures {curvatures[0]:.3f} and {curvatures[1]:.3f}; left of the error along the first: {left:.0%}")

# %% [markdown]
# This is an experiment from a text that calls it stochastic gradient descent. It is not: every step reads all the data.
# Nor has it arrived. The slope is **2.435** instead of **3.018**, for along the flat direction a step of rate 0.01
# removes little of the error, and after a thousand of them **28 %** of it are left.
#
# ## Full batch, mini-batch, single examples
#
# A step may read all 100 examples, 10 of them, or one. All three runs below read the same number of examples in all, 20
# epochs, and each has a learning rate that suits it.

# %%
settings = {"full batch": (None, 0.5), "batches of 10": (10, 0.2), "single examples": (1, 0.1)}
paths = {}
for name, (size, rate) in settings.items():
    steps = 20 * 100 // (size or 100)
    run = gradlab.fit(line, gradlab.sgd(rate), steps=steps, batch_size=size, eval_every=steps, trajectory=True)
    paths[name] = np.vstack([run.trajectory, run.params])
slopes, levels = np.linspace(-0.5, 4.5, 80), np.linspace(-0.5, 2.5, 80)
grid = np.stack(np.meshgrid(slopes, levels), -1)
risk = jax.jit(jax.vmap(jax.vmap(J)))(grid)
order = ("single examples", "batches of 10", "full batch")
ax = plots.trajectory(
    slopes, levels, risk, {name: paths[name] for name in order}, minima=best, labels=("slope w", "height b")
)
ax.set_title("the same 20 epochs in steps of three sizes")
ax.figure

# %%
curves = {name: jax.jit(jax.vmap(J))(points) - J(best) for name, points in paths.items()}
fig, ax = plt.subplots(figsize=(6.5, 3.8), layout="constrained")
for name in order:
    epochs = np.linspace(0, 20, len(curves[name]))
    ax.semilogy(epochs, curves[name], lw=0.8 if name == "single examples" else 1.8, label=name)
ax.set(xlabel="epochs", ylabel="J above its minimum")
ax.legend()
plt.show()
for name, curve in curves.items():
    epoch = (len(curve) - 1) // 20
    late = curve[len(curve) // 2 :].mean()
    print(f"{name}: {len(curve) - 1} steps; J - J* is {curve[epoch]:.4f} after 1 epoch, {late:.4f} in the last ten")

# %% [markdown]
# After one epoch the single examples are at **0.0355**, the full batch, which has made one step, at **0.6868**. But
# the single examples come no nearer than **0.0096**, their average over the last ten epochs, in which the batches of
# 10 have passed them with **0.0020**. The full batch is the slowest, and the only one that nothing keeps from the
# minimum. Small batches drift about it. Why do they not settle?
#
# ## The noise does not vanish at the minimum
#
# At the minimum the mean of the examples' gradients is zero. The gradients are not. A batch of $n$ has the mean of $n$
# of them, with the standard error
#
# $$\frac{\sigma}{\sqrt n}\ \text{drawn with replacement},\qquad
# \frac{\sigma}{\sqrt n}\sqrt{1 - \frac nN}\ \text{without}.$$

# %%
gradients = jax.vmap(jax.grad(lambda p, x, y: (p[0] * x + p[1] - y) ** 2), (None, 0, 0))(best, data["x"], data["y"])
trace = np.asarray(gradients).var(0, ddof=1).sum()  # sigma squared, of both parameters together
sizes = np.array([1, 2, 5, 10, 20, 50, 80, 95])
draws = np.random.default_rng(0)
orders = np.argsort(draws.random((4000, 100)), axis=1)
picks = draws.integers(0, 100, (4000, 100))
spread = lambda index, n: np.sqrt(np.mean(np.sum(np.asarray(gradients)[index[:, :n]].mean(1) ** 2, -1)))

fig, ax = plt.subplots(figsize=(6.5, 3.8), layout="constrained")
n = np.geomspace(1, 99, 100)
ax.loglog(n, np.sqrt(instruments.batch_variance(trace, n)), label=r"$\sigma/\sqrt{n}$")
ax.loglog(n, np.sqrt(instruments.batch_variance(trace, n, 100)), label=r"$\sigma\sqrt{(1 - n/N)/n}$")
ax.loglog(sizes, [spread(picks, size) for size in sizes], "o", color=plots.PALETTE[0], label="with replacement")
ax.loglog(sizes, [spread(orders, size) for size in sizes], "s", color=plots.PALETTE[1], label="without")
ax.set(xlabel="batch size n", ylabel="error of the gradient", title="at the minimum of 100 examples")
ax.legend()
plt.show()
print(f"mean gradient {np.linalg.norm(gradients.mean(0)):.3f}, sigma {np.sqrt(trace):.3f}")
for size in (1, 10, 50):
    print(f"n = {size}: {spread(picks, size):.3f} with replacement, {spread(orders, size):.3f} without")

# %% [markdown]
# A single gradient is off by **0.633**, the mean of ten by **0.201**; a tenth of the error takes a hundred times the
# work. That is why large batches return less and less. What they cost also depends on the machine: the examples of a
# batch are computed side by side, so that up to some size a larger batch takes hardly longer.
#
# ## The noise floor
#
# The smallest task that shows it: estimate the mean of some numbers by descending on $\frac12 (w - x_i)^2$, one number
# at a time. A step is $w \leftarrow w - \eta (w - x_i)$. With a constant rate the errors settle where what a step
# removes is what it adds,
#
# $$\mathrm{E}\,(w - \bar x)^2 = \frac{\eta\, s^2}{2 - \eta},$$
#
# proportional to $\eta$ for small rates. So the rate has to fall, but not too fast. Robbins and Monro's conditions are
# $\sum \eta_t = \infty$, so that the run can reach any point, and $\sum \eta_t^2 < \infty$, so that the noise dies out.

# %%
numbers = np.random.default_rng(0).normal(2.0, 1.0, 2000)


def half_square(p, state, batch, key):
    return 0.5 * jnp.mean((p - batch) ** 2), state


mean_task = make_task(lambda key: (jnp.zeros(()), {}), half_square, train=numbers)
schedules = {
    "constant 0.1": gradlab.constant_schedule(0.1),
    "constant 0.01": gradlab.constant_schedule(0.01),
    "1 / (1 + t)": gradlab.inverse_time_schedule(1.0, rate=1.0),
    "linear to 1 %, then constant": gradlab.linear_floor_schedule(0.1, 0.001, 2000),
    "times 0.9 each step": gradlab.multiply_schedule(0.1, 0.9),
}


result = gradlab.sweep(
    mean_task,
    lambda schedule: gradlab.sgd(schedules[schedule]),
    {"schedule": list(schedules)},
    sampler="grid",
    seeds=64,
    steps=4000,
    eval_every=40,
    batch_size=1,
    sampling="replacement",
)
excess = 2 * (result.metrics["eval_loss"] - numbers.var() / 2)  # (w - mean)^2, for each schedule, seed and step
errors = dict(zip(schedules, excess, strict=True))
ax = plots.race({name: e.mean(0) for name, e in errors.items()}, step=result.eval_step, ylabel="mean squared error")
ax.set_title("the mean of 2000 numbers, one a step; mean of 64 seeds")
ax.figure

# %%
for name, schedule in schedules.items():
    late, judged = errors[name][:, 75:].mean(), gradlab.robbins_monro(schedule)
    sums = f"sum of the rates finite: {not judged.sum_diverges}, of their squares: {judged.square_sum_converges}"
    print(f"{name}: {late:.5f} in the last 1000 steps; {sums}")
for rate in (0.1, 0.01, 0.001):
    print(f"floor by the formula at rate {rate}: {rate * numbers.var() / (2 - rate):.5f}")
product = (errors["1 / (1 + t)"] * result.eval_step)[:, 25:].mean()
print(f"1 / (1 + t): steps times squared error {product:.2f}; variance of the numbers {numbers.var():.2f}")

# %% [markdown]
# - The constant rates stay at their floors, **0.0552** and **0.0048**, as the formula has it. A tenth of the rate is a
#   tenth of the floor, and ten times the way to it.
# - $1/(1+t)$ satisfies both conditions, and here it does the best thing possible: the run is the running mean of the
#   numbers, whose error is $s^2/t$ (steps times error: **0.89**, of which **1.00** is expected). No estimate from $t$
#   numbers is better on average, says the bound of Cramér and Rao. Hence $O(1/t)$ is the best that one pass over the
#   data can give, whatever the optimizer.
# - The linear schedule that ends at one percent fails the second condition, and is as good for all practical purposes:
#   its floor is a hundredth of where it began. Since it does not end at zero, a run that is late does not stand still.
# - Multiplying by 0.9 each step, as one text proposes, fails the first condition: all its steps together add up to 1.
#   The run freezes on the way, at an error of **0.55**.
#
# Instead of a smaller rate a larger batch will do, since only $\eta / n$ counts in the floor. `fit` can let the batch
# grow during the run.

# %%
runs = [
    gradlab.fit(
        mean_task,
        gradlab.sgd(0.1),
        steps=1000,
        key=seed,
        batch_size=1,
        sampling="replacement",
        micro_batches=gradlab.linear_schedule(1, 40, 1000),
        trajectory=True,
    )
    for seed in range(16)
]
growing = np.stack([(run.trajectory[:, 0] - numbers.mean()) ** 2 for run in runs])
for first in (100, 300, 900):
    print(f"steps {first} to {first + 100}: batches of about {1 + 39 * (first + 50) / 1000:.0f}, ", end="")
    print(f"squared error {growing[:, first : first + 100].mean():.5f}")

# %% [markdown]
# With batches of about 38 the error is **0.0013**, a 38th of the floor of single numbers at the same rate.

# %% [markdown]
# ## The order of the data
#
# *Shuffle first.* The digits sorted by class, read in that order and shuffled: a linear classifier, batches of 32, one
# epoch after another. `sampling` decides: `'epoch'` shuffles for every epoch, `'once'` before the first, `'ordered'`
# never.

# %%
rows = digits()
by_class = np.argsort(rows.train["y"], kind="stable")
ordered = jax.tree.map(lambda leaf: leaf[by_class], rows.train)
task = flax_task(nn.Dense(10), ordered, valid=rows.valid)
fig, ax = plt.subplots(figsize=(6.5, 3.8), layout="constrained")
for name, sampling in {"never shuffled": "ordered", "shuffled once": "once", "every epoch": "epoch"}.items():
    run = gradlab.fit(task, gradlab.sgd(0.2), epochs=6, batch_size=32, sampling=sampling, eval_every=3)
    ax.plot(run.eval_step, run.metrics["loss"], lw=1.8, label=name)
    print(f"{name}: validation loss {run.metrics['loss'][-1]:.2f}, accuracy {run.metrics['accuracy'][-1]:.2f}")
ax.set(yscale="log", xlabel="step", ylabel="validation loss", title="digits sorted by class")
ax.legend()
plt.show()

# %% [markdown]
# Without shuffling each class in turn pulls the classifier to itself, and the loss goes up and down with it: the
# accuracy is **0.82** instead of **0.96**. One shuffle is as good as six here.
#
# *Duplicates are no data.* Ten copies of every example give the same gradient as one, at ten times the cost; and a
# standard error that counts them as different examples promises too much.

# %%
few = np.asarray(gradients)[::5]
for name, batch in (("20 examples", few), ("ten copies of each", np.tile(few, (10, 1)))):
    error = np.sqrt(batch.var(0, ddof=1).sum() / len(batch))
    print(f"{name}: gradient {np.linalg.norm(batch.mean(0)):.4f}, sigma / sqrt(n) = {error:.3f}")

# %% [markdown]
# The gradient is the same, **0.0295**, and no nearer to the zero that all hundred examples give. Yet the formula claims
# an error of **0.040** instead of **0.131**.
#
# ## A slip that hides the noise
#
# One text writes the inner loop as `w[k] = w[k-1] - eta * grad(sample)`, for every sample of epoch `k`. Then each
# sample starts again from `w[k-1]`, and all but the last one are forgotten. It has to be `w = w - eta * grad(sample)`.

# %%
slip = right = 0.0
for _ in range(10):
    before = slip
    for number in numbers[:200]:
        slip = before - 0.01 * (before - number)
        right = right - 0.01 * (right - number)
print(
    f"the mean of 200 numbers is {numbers[:200].mean():.2f}; after 10 epochs: as written {slip:.2f}, right {right:.2f}"
)

# %% [markdown]
# As written the run has made ten steps and not two thousand, and has come to **0.25**.

# %% [markdown]
# ## Which batch size?
#
# It depends on how large the noise is beside the signal. The *simple noise scale* $\mathrm{tr}\,\Sigma / |G|^2$ is the
# batch size at which they are equal: far below, twice the batch saves half of the steps; far above, it saves nothing.
# It grows during training, since the gradient shrinks and the noise does not.


# %%
def example_losses(p, batch):
    one = lambda x, y: task.loss(p, {}, {"x": x[None], "y": y[None]}, None)[0]
    return jax.vmap(one)(batch["x"], batch["y"])


measure = jax.jit(lambda p: instruments.noise(example_losses, p, rows.train, chunk=128))
params = {0: task.init(jax.random.key(0))[0]}
for epochs in (1, 6):
    params[epochs] = gradlab.fit(task, gradlab.sgd(0.05), epochs=epochs, batch_size=32).params
for epochs, p in params.items():
    found = measure(p).simple
    print(f"epoch {epochs}: the noise scale is {found.value:.0f} examples, with an error of {found.error:.0f}")

# %% [markdown]
# It grows from **26** to **543** examples in six epochs.
#
# With the batch the learning rate has to grow: a gradient with less noise bears a longer step. Three batch sizes, each
# with 13 learning rates for 3 epochs.

# %%
seconds = {}
fig, ax = plt.subplots(figsize=(6.5, 3.8), layout="constrained")
for size in (4, 32, 256):
    space = {"learning_rate": {"log": [1e-3, 4.0]}}
    result = gradlab.sweep(task, gradlab.sgd, space, trials=13, sampler="grid", epochs=3, batch_size=size)
    seconds[size] = result.run_seconds.sum()
    rates, final = result.table["learning_rate"], result.table["valid_loss_final"]
    ax.loglog(rates, final, "o-", ms=4, label=f"batches of {size}, {result.steps} steps")
    print(f"batches of {size}: {result.steps} steps, best rate {rates[final.argmin()]:.3f}, loss {final.min():.2f}")
ax.set(xlabel="learning rate", ylabel="validation loss", ylim=(0.08, 12), title="digits, 3 epochs")
ax.legend(loc="upper center")
plt.show()

# %% [markdown]
# From 4 to 32 the best rate grows, from **0.126** to **2.004**, and the result is as good with an eighth of the steps.
# From 32 to 256 it does not: beyond 2 the full gradient is unstable too, and with **12** steps not even the best rate
# gets there. Usual sizes are powers of two between 32 and 256: large enough that the machine is busy, small enough for
# many steps. Single examples, whose noise is said to help generalisation most, need small rates and are slow: a step
# costs something whatever it reads, and the examples of a batch are computed side by side. On the machine that stored
# this notebook the 13 runs of 3 epochs took so long, without compiling:

# %% tags=["varies"]
for size, spent in seconds.items():
    print(f"batches of {size}: {spent:.2f} s")

# %% [markdown]
# Second-order methods need more. A batch of 100 may do for $g$ and leave nothing of $H^{-1} g$, in which the noise of
# the flat directions is divided by their small curvatures. We take a linear regression of condition 100.

# %%
rng = np.random.default_rng(0)
scales, distance = np.array([1.0, 0.1]), np.array([1.0, 1.0])
curvature = scales**2  # the Hessian is diagonal
exact = curvature * distance
for n in (100, 10_000):
    features = rng.normal(size=(100, n, 2)) * scales
    residuals = features @ distance - rng.normal(size=(100, n))
    estimates = (features * residuals[..., None]).mean(1)
    error = lambda v, truth: np.sqrt(np.mean(np.sum((v - truth) ** 2, -1))) / np.linalg.norm(truth)
    print(f"n = {n}: error of g {error(estimates, exact):.0%}, of g / H {error(estimates / curvature, distance):.0%}")

# %% [markdown]
# With 100 examples the error of the gradient is **15 %**, and that of the Newton step **100 %**; it takes 10,000
# examples to bring that to **10 %**.
#
# **Answer.** A step needs few examples while the gradient is large, and the run gets far on them. Near the minimum the
# noise stays, $\sigma/\sqrt n$, and a constant rate leaves an error in proportion to $\eta/n$: let the rate fall, or
# the batch grow. Shuffle, and count distinct examples only.
