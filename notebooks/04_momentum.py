# %% [markdown]
# # 4. Momentum and its forms
#
# **Question.** Gradient descent is slow in a long narrow valley: what is too fast across is too slow along. How does a
# memory of the last steps help, how much, and which of the many formulas that are called "momentum" is which?
#
# In this notebook a number in bold was measured by the cell above it.

# %%
# %matplotlib inline
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import gradlab
from gradlab import instruments, plots
from gradlab.tasks import make_surface, make_task, quadratic, surface_task

jax.config.update("jax_enable_x64", True)
plt.rcParams["axes.prop_cycle"] = plt.cycler(color=plots.PALETTE)

# %% [markdown]
# ## A valley
#
# On $f = \frac12 (x^2 + 25 y^2)$ the curvature across the valley is 25 times that along it. Descent is stable for
# rates below $2/25$. With such a rate a step along the valley is short, and across it overshoots. The *heavy ball*
#
# $$v_{t+1} = a v_t - \eta \nabla f(\theta_t), \qquad \theta_{t+1} = \theta_t + v_{t+1}$$
#
# keeps the part $a$ of its velocity: across the valley the gradients cancel, along it they add up. (Newton's law with a
# drag gives this formula, hence the name.)


# %%
def path(surface, tx, steps, start=None):
    """The points of an optimizer on a surface, before each of its steps."""
    run = gradlab.fit(surface_task(surface, start=start), tx, steps=steps, eval_every=steps, trajectory=True)
    return run.trajectory


valley = quadratic(condition=25.0)
begin = [-1.4, 0.5]
ball = path(valley, gradlab.heavy_ball(0.03, momentum=0.7), 40, begin)
descent = path(valley, gradlab.sgd(0.03), 40, begin)
across, along = np.linspace(-0.8, 0.8, 81), np.linspace(-1.6, 1.0, 131)
height = jax.vmap(jax.vmap(valley.function))(np.stack(np.meshgrid(along, across), -1))

fig, ax = plt.subplots(figsize=(9, 3.6), layout="constrained")
plots.trajectory(along, across, height, {"descent": descent, "heavy ball": ball}, minima=valley.minima, ax=ax)
pull = -0.03 * ball[:12] * np.array([1.0, 25.0])
arrows = {"angles": "xy", "scale_units": "xy", "scale": 1, "width": 0.004, "zorder": 6}
ax.quiver(*ball[:12].T, *pull.T, color="black", label="a descent step from there", **arrows)
ax.set_title("40 steps at the same learning rate")
plt.show()
for name, points in (("descent", descent), ("heavy ball", ball)):
    far = np.linalg.norm(points, axis=1)
    print(f"{name}: {far[20]:.4f} from the minimum after 20 steps, {far[39]:.4f} after 39")

# %% [markdown]
# The black arrows are what descent would do at the points where the ball comes by: they point across the valley. The
# ball goes along it. After 39 steps it is at a distance of **0.0012**, descent at **0.4268**.
#
# ## How fast, at best?
#
# With curvatures between $l$ and $L$ and $\kappa = L / l$, the best constant numbers are known:
#
# | | learning rate | momentum | factor of the error in each step |
# |---|---|---|---|
# | descent | $2 / (L + l)$ | | $(\kappa - 1)/(\kappa + 1)$ |
# | Nesterov | $1/L$ | $q$ | $1 - 1/\sqrt\kappa$ |
# | heavy ball | $4 / (\sqrt L + \sqrt l)^2$ | $q^2$ | $q$ |
#
# with $q = (\sqrt\kappa - 1)/(\sqrt\kappa + 1)$. Both forms of momentum replace $\kappa$ by its root. We take
# $\kappa = 100$ and fit the factors to the loss.

# %%
kappa = 100.0
steep = surface_task(quadratic(condition=kappa))
root = kappa**0.5
methods = {
    "descent": (gradlab.sgd(2 / (kappa + 1)), (kappa - 1) / (kappa + 1)),
    "Nesterov": (gradlab.nesterov_sgd(1 / kappa, momentum=(root - 1) / (root + 1)), 1 - 1 / root),
    "heavy ball": (gradlab.heavy_ball(4 / (1 + root) ** 2, ((root - 1) / (root + 1)) ** 2), (root - 1) / (root + 1)),
}
losses = {}
for name, (tx, factor) in methods.items():
    losses[name] = gradlab.fit(steep, tx, steps=140, eval_every=140).loss
    fit = instruments.fit_rate(losses[name]).linear
    print(f"{name}: an error shrinks by {fit.value**0.5:.3f} a step, theory {factor:.3f}")
ax = plots.race(losses, floor=1e-20, title="a valley of condition 100, the best constant numbers")
steps = np.arange(140)
for index, (_, factor) in enumerate(methods.values()):
    ax.plot(steps, losses["descent"][0] * factor ** (2 * steps), color=plots.PALETTE[index], ls=":", lw=1)
ax.figure

# %% [markdown]
# Measured are **0.980**, **0.908** and **0.826**; theory (dotted) has 0.980, 0.900 and 0.818. The last two are met
# late: at the best momentum two modes coincide, and the error falls as $t \rho^t$ and not as $\rho^t$. A rate says
# nothing of the beginning, either. The ball first rises, for its learning rate is beyond what descent could bear.
#
# What if we do not know $l$ and $L$? A sweep over both numbers shows how they go together.

# %%
result = gradlab.sweep(
    steep,
    gradlab.heavy_ball,
    {"learning_rate": {"log": [1e-3, 0.05]}, "momentum": {"one_minus": {"log": [0.01, 1.0]}}},
    trials={"learning_rate": 25, "momentum": 25},
    sampler="grid",
    steps=60,
    eval_every=60,
)
ax = plots.heat_map(result, "learning_rate", "momentum")
ax.plot(4 / (1 + root) ** 2, 1 - ((root - 1) / (root + 1)) ** 2, "*", ms=15, mfc="white", mec="black")
ax.figure

# %%
final = result.summary()
best = final.loc[final["mean"].idxmin()]
plain = final[final["momentum"] == 0.0]["mean"].min()
print(f"best: rate {best['learning_rate']:.4f}, momentum {best['momentum']:.3f}, loss {best['mean']:.1e}")
print(f"best without momentum: loss {plain:.3f}")
print(f"theory: rate {4 / (1 + root) ** 2:.4f}, momentum {((root - 1) / (root + 1)) ** 2:.3f}")

# %% [markdown]
# The best cell lies at a rate of **0.0307** and a momentum of **0.684**, next to the star of theory. More momentum
# bears a higher rate (the edge of stability is $\eta L < 2 + 2a$), yet pays only as far as the valley is long: with too
# much of it the ball swings along the valley.
#
# ## Terminal velocity
#
# On a constant slope $g$ the ball speeds up until what it loses is what it gains. After $t$ steps the step length is
#
# $$\eta\, g\, \frac{1 - a^t}{1 - a} \;\longrightarrow\; \frac{\eta\, g}{1 - a},$$
#
# and momentum 0.9 is worth ten times the learning rate, 0.99 a hundred times. Who turns it on should lower the rate.
# One text averages the gradients instead, $v \leftarrow a v + (1 - a) g$: that form ends at $\eta g$, whatever $a$.

# %%
slope = make_surface("slope", lambda p: -p[0], [0.0])
balls = {f"heavy ball, momentum {a}": gradlab.heavy_ball(0.1, momentum=a) for a in (0.5, 0.9, 0.99)}
balls["average of gradients, 0.9"] = gradlab.ema_sgd(0.1, momentum=0.9)
speeds = {name: np.diff(path(slope, tx, 502)[:, 0]) for name, tx in balls.items()}

fig, ax = plt.subplots(figsize=(7.5, 3.8), layout="constrained")
for name, speed in speeds.items():
    ax.loglog(np.arange(1, 502), speed, lw=1.8, label=name)
    print(f"{name}: first step {speed[0]:.2f}, tenth {speed[9]:.3f}, 500th {speed[499]:.2f}")
ax.set(xlabel="step", ylabel="step length", title="rate 0.1 on a slope of 1")
ax.legend()
plt.show()
print(f"formula for 0.9, tenth step: {0.1 * (1 - 0.9**10) / (1 - 0.9):.3f}")

# %% [markdown]
# ## Which momentum is which?
#
# Four formulas are in use, and with constant numbers they are two:
#
# | in gradlab | recurrence | step |
# |---|---|---|
# | `heavy_ball` | $v = a v - \eta g$ | $v$ |
# | `momentum_sgd`, `sgd(momentum=)`, as in PyTorch and Optax | $B = a B + g$ | $-\eta B$ |
# | `ema_sgd`, the first half of Adam | $m = a m + (1 - a) g$ | $-\eta m$ |
# | `nesterov_sgd`, and `sgd(nesterov=True)` seen from the point ahead | $v = a v - \eta g(\theta + a v)$ | $v$ |
#
# The first three are the same if the third one's rate is divided by $1 - a$. They part where the rate changes during
# the run: the heavy ball remembers steps, which had the rate of their time, the second form gradients, which all get
# the new rate.

# %%
same = {
    "heavy_ball(0.02)": gradlab.heavy_ball(0.02, momentum=0.8),
    "momentum_sgd(0.02)": gradlab.momentum_sgd(0.02, momentum=0.8),
    "ema_sgd(0.1)": gradlab.ema_sgd(0.1, momentum=0.8),
}
points = {name: path(valley, tx, 40, begin) for name, tx in same.items()}
for name, where in points.items():
    print(f"{name}: after 39 steps at x = {where[39, 0]:.6f}, y = {where[39, 1]:.6f}")
cut = gradlab.piecewise_constant_schedule(0.1, {200: 0.1})
for name, make in (("heavy_ball", gradlab.heavy_ball), ("momentum_sgd", gradlab.momentum_sgd)):
    speed = np.diff(path(slope, make(cut, momentum=0.9), 502)[:, 0])
    print(f"{name}: steps of {speed[199]:.2f} before the rate is cut to a tenth, the next is {speed[200]:.2f}")

# %% [markdown]
# After the cut the heavy ball still makes a step of **0.91** and slows down gradually; the other form is at **0.10** at
# once.
#
# ## Nesterov: look before you leap
#
# Nesterov's form takes the gradient not where the ball is but where its velocity is about to carry it,
# $g(\theta + a v)$. If that is up the other side of the valley, the gradient there already pushes back.

# %%
theta, v, a, rate = np.array([-0.9, 0.25]), np.array([0.35, -0.42]), 0.9, 0.02
push = lambda p: -rate * np.asarray(jax.grad(valley.function)(jnp.array(p)))
ahead = theta + a * v

fig, ax = plt.subplots(figsize=(7.5, 4.2), layout="constrained")
ax.contour(along, across, height, levels=12, colors="#C8C8C8", linewidths=0.8)
ax.plot(*theta, "o", ms=8, color="black")
arrows |= {"width": 0.006}
ax.quiver(*theta, *(a * v), color="#777777", label="velocity kept, $a v$", **arrows)
for name, force, color in (("heavy ball", push(theta), 1), ("Nesterov", push(ahead), 0)):
    ax.quiver(*ahead, *force, color=plots.PALETTE[color], label=f"{name}: push of the gradient", **arrows)
    ax.plot(*(ahead + force), "s", ms=8, color=plots.PALETTE[color], label=f"{name}: new point")
ax.set(xlim=(-1.1, -0.3), ylim=(-0.45, 0.4), xlabel="x", ylabel="y", title="one step of each, from the same state")
ax.legend(loc="upper right")
plt.show()

# %% [markdown]
# The heavy ball goes on with the push from where it was, and climbs; Nesterov's is pushed back. So its swings across
# the valley are damped more, which the next cell shows at equal numbers. The price is stability: the largest curvature
# that it holds is smaller.

# %%
swings = {}
for name, tx in (("heavy ball", gradlab.heavy_ball(0.02, 0.9)), ("Nesterov", gradlab.nesterov_sgd(0.02, 0.9))):
    swings[name] = gradlab.fit(surface_task(valley, start=begin), tx, steps=120, eval_every=120).loss
ax = plots.race(swings, title="momentum 0.9, rate 0.02, condition 25")
ax.figure

# %%
makers = {"heavy_ball": gradlab.heavy_ball, "nesterov": gradlab.nesterov_sgd}
for name, make in makers.items():
    edge = instruments.threshold(name, 0.1, 0.9)
    print(f"{name}, rate 0.1, momentum 0.9: stable up to a curvature of {edge:.2f}")
    for share in (0.99, 1.01):
        bowl = make_surface("bowl", lambda p: 0.5 * p[0] ** 2, [1.0])
        x = path(bowl, make(0.1 * edge * share, 0.9), 1000)[:, 0]  # the rate and the curvature count as a product
        print(f"  at {share:.2f} of it the distance {'shrinks' if abs(x[-1]) < abs(x[500]) else 'grows'}")

# %% [markdown]
# At the same rate the heavy ball holds curvatures up to **38.00**, that is $(2 + 2a)/\eta$, Nesterov's form up to
# **13.57**, $(2 + 2a) / ((1 + 2a)\,\eta)$.
#
# One text prints Nesterov's gradient as $\nabla f(x_{n-1} - x_{n-2})$. The argument is then a displacement and not a
# place, and the method does not know where it is. Right is $\nabla f(x_{n-1} + a (x_{n-1} - x_{n-2}))$. On
# $\frac12 (x - 3)^2$:

# %%
gradient = lambda x: x - 3.0
written, right = [0.0, 0.0], [0.0, 0.0]
for _ in range(200):
    moved = written[-1] - written[-2]
    written.append(written[-1] + 0.9 * moved - 0.1 * gradient(moved))
    ahead = right[-1] + 0.9 * (right[-1] - right[-2])
    right.append(ahead - 0.1 * gradient(ahead))
print(f"as written: after 200 steps at {written[-1]:.1f}, going on by {written[-1] - written[-2]:.2f} a step")
print(f"right: after 200 steps at {right[-1]:.4f}")

# %% [markdown]
# ## Without a smallest curvature
#
# If curvatures reach down to zero, no factor per step is left. The loss falls as a power of the steps: descent as
# $1/k$, and Nesterov's momentum, growing as $a_k = k / (k + 3)$, as $1/k^2$, which is optimal for convex functions. We
# take a quadratic whose 100 curvatures are spread evenly over eight decades.

# %%
flat = surface_task(quadratic(condition=1e8, dim=100))
growing = 1 - gradlab.inverse_time_schedule(1.0, rate=1 / 3)  # k / (k + 3)
methods = {
    "descent": gradlab.sgd(1e-8),
    "Nesterov, momentum 0.9": gradlab.nesterov_sgd(1e-8, momentum=0.9),
    "Nesterov, momentum k / (k + 3)": gradlab.nesterov_sgd(1e-8, momentum=growing),
}
losses = {name: gradlab.fit(flat, tx, steps=2000, eval_every=2000).loss for name, tx in methods.items()}
for name, loss in losses.items():
    print(f"{name}: loss ~ 1 / k^{instruments.fit_rate(loss, tail=0.9).power.value:.1f}")
ax = plots.race(losses, title="curvatures from 1 to $10^8$")
ax.set_xscale("log")
ax.figure

# %% [markdown]
# The exponents are **1.0**, **1.0** and **2.0**. Constant momentum is a head start of a factor of ten; the growing one
# changes the law. (It holds for exact gradients only: with noise, no method beats $1/k$ on strongly convex functions.)
#
# ## With noise
#
# Does momentum average the noise away? The task of the last notebook again: the mean of numbers, one number a step,
# with the momentum constant, growing from 0.5 to 0.9 and 0.99, or with a falling rate.

# %%
numbers = np.random.default_rng(0).normal(2.0, 1.0, 2000)


def half_square(p, state, batch, key):
    return 0.5 * jnp.mean((p - batch) ** 2), state


mean_task = make_task(lambda key: (jnp.zeros(()), {}), half_square, train=numbers)
stages = gradlab.join_schedules([0.5, 0.9, 0.99], [1000, 2000])
makers = {
    "descent, rate 0.1": gradlab.sgd(0.1),
    "ball, rate 0.01, momentum 0.9": gradlab.heavy_ball(0.01, momentum=0.9),
    "ball, momentum growing": gradlab.heavy_ball(0.01, momentum=stages),
    "ball, rate falling": gradlab.heavy_ball(gradlab.linear_floor_schedule(0.01, 1e-4, 2000), 0.9),
}
result = gradlab.sweep(
    mean_task,
    lambda method: makers[method],
    {"method": list(makers)},
    sampler="grid",
    seeds=64,
    steps=3000,
    eval_every=30,
    batch_size=1,
    sampling="replacement",
)
excess = 2 * result.metrics["eval_loss"] - numbers.var()  # the squared error, for each method, seed and step
ax = plots.race(dict(zip(makers, excess.mean(1), strict=True)), step=result.eval_step, ylabel="mean squared error")
ax.set_title("the mean of 2000 numbers, one a step; mean of 64 seeds")
ax.figure

# %%
for name, errors in zip(makers, excess, strict=True):
    print(f"{name}: {errors[:, -17:].mean():.4f} in the last 500 steps")
b, lr = 0.9, 0.01
floor = lr * (1 + b) / ((1 - b) * (2 * (1 + b) - lr))  # for b = 0 it is lr / (2 - lr)
print(f"floor by the formula: descent {0.1 / (2 - 0.1):.4f}, heavy ball {floor:.4f}")

# %% [markdown]
# No: at the same terminal velocity descent and the ball end at the same floor, **0.0526** and **0.0522**. Letting the
# momentum grow to 0.99 raises it to **0.51**, for it is a larger rate in disguise; letting the rate fall lowers it to
# **0.0010**. In training with noise, to lower the rate matters more than to move the momentum.
#
# **Answer.** Momentum adds up what the gradients have in common, and lets cancel what they have not. Where curvatures
# differ by $\kappa$, it makes $\sqrt\kappa$ of it, which is the most that gradients alone can do. Its forms are two,
# the heavy ball and Nesterov's, with rates in different units: the effective one is $\eta / (1 - a)$, for the averaging
# form $\eta$. Against noise it does not help; there the rate has to fall.
