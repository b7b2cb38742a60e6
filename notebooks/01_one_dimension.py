# %% [markdown]
# # 1. One dimension: following the slope
#
# **Question.** A function is given, and we can ask for its value and its slope at one point at a time. How do we find
# where it is lowest, and what can go wrong on the way?
#
# Looking everywhere is no way. With ten points along each axis a function of $n$ variables has $10^n$ places to look
# at. ResNet-18, a small network by today's measure, has $11\,689\,512$ parameters, hence $10^{11\,689\,512}$ places.
# There are about $10^{80}$ atoms in the universe that we see, and it is $4.3 \times 10^{17}$ seconds old. (A text that
# lost digits of its exponents in printing speaks of $10^{6895}$ places, $10^8$ atoms and $4.32 \times 10^7$ seconds.)
# The slope tells us where to go next, so that we need not look everywhere.
#
# In this notebook a number in bold was measured by the cell above it.

# %%
# %matplotlib inline
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import gradlab
from gradlab import plots
from gradlab.tasks import damped_sine, make_surface, parabola, sine_hill, sine_parabola, surface_task

jax.config.update("jax_enable_x64", True)
plt.rcParams["axes.prop_cycle"] = plt.cycler(color=plots.PALETTE)

# %% [markdown]
# ## The slope is the limit of secants
#
# The secant through $(x, f(x))$ and $(x + h, f(x + h))$ has the slope $\frac{f(x+h) - f(x)}{h}$. Its limit for
# $h \to 0$ is the derivative $f'(x)$, the slope of the tangent $f(x) + f'(x)\,(z - x)$. Our function is
# $f(x) = x^2 + \sin x$.

# %%
curve = sine_parabola()
f = lambda x: curve.function(jnp.array([x]))
slope_of = jax.grad(f)
grid = np.linspace(-3, 3, 400)
heights = jax.vmap(f)(grid)
x0 = 0.5

fig, ax = plt.subplots(figsize=(6.5, 3.8), layout="constrained")
ax.plot(grid, heights, color="black")
for h in (2.0, 1.0, 0.5, 0.1):
    secant = (f(x0 + h) - f(x0)) / h
    ax.axline((x0, f(x0)), slope=secant, color=plots.PALETTE[0], lw=1.2, alpha=0.3 + 0.2 / h**0.5)
    ax.plot(x0 + h, f(x0 + h), "o", color=plots.PALETTE[0], ms=5)
    print(f"h = {h}: the secant's slope is {secant:.4f}, too large by {secant - slope_of(x0):.4f}")
ax.axline((x0, f(x0)), slope=slope_of(x0), color=plots.PALETTE[1], lw=2, label="tangent")
ax.plot([], [], color=plots.PALETTE[0], label="secants")
ax.set(xlim=(-1.5, 3), ylim=(-2, 9), xlabel="x", ylabel="f(x)", title="secants approach the tangent")
ax.legend()
plt.show()
print(f"the derivative at {x0} is {slope_of(x0):.4f}")

# %% [markdown]
# The tangent has the slope **1.8776**, and the secants come close to it: the error is about $\frac{h}{2} f''(x)$, so
# that half the $h$ has half the error. JAX does not take the limit numerically. It differentiates the program, and the
# derivative is exact to rounding.
#
# ## A step downhill
#
# Gradient descent walks against the slope, in steps that are proportional to it:
#
# $$x_{t+1} = x_t - \eta f'(x_t).$$
#
# The number $\eta$ is the *learning rate*. On $f(x) = x^2$ every step multiplies $x$ by $1 - 2\eta$, hence
# $x_t = (1 - 2\eta)^t x_0$. All that a learning rate can do is in this formula.


# %%
def path(surface, tx, steps, start=None):
    """The points x_0, x_1, ... of an optimizer on a curve, before each of its steps."""
    run = gradlab.fit(surface_task(surface, start=start), tx, steps=steps, eval_every=steps, trajectory=True)
    return run.trajectory[:, 0]


bowl = parabola()
paths = {f"rate {rate}": path(bowl, gradlab.sgd(rate), 12) for rate in (0.1, 0.5, 0.9, 1.0, 1.05)}
upper, lower = plots.iterates(grid, grid**2, paths, minima=bowl.minima, title="$x^2$ from 2")
upper.figure

# %%
for name, rate in (("rate 0.1", 0.1), ("rate 0.9", 0.9), ("rate 1.0", 1.0)):
    formula = 2 * (1 - 2 * rate) ** np.arange(12)
    print(f"{name}: x_11 = {paths[name][-1]:.4f}, by the formula {formula[-1]:.4f}")
run = gradlab.fit(surface_task(bowl), gradlab.sgd(1.5), steps=1000)
print(f"rate 1.5: the run {run.reason} at step {run.steps}")

# %% [markdown]
# - $\eta < 0.5$ comes down on one side, $\eta = 0.5$ jumps onto the minimum, and $0.5 < \eta < 1$ bounces from side to
#   side and still converges: with 0.9 the eleventh point is at **-0.1718**, as far as with 0.1 (**0.1718**).
# - $\eta = 1$ swings between 2 and $-2$ for ever, and more than that diverges. With 1.5 the distance doubles in each
#   step until the numbers overflow, after **512** steps. An infinite loss is the sign of a learning rate that is too
#   large, and `fit` ends the run there.
#
# In general the bound is $\eta < 2 / f''$ near a minimum: a step may be twice as long as the one that would hit it.
#
# ## "For convex functions some learning rate always converges"
#
# So it is often said, and it is true if the slope cannot change arbitrarily fast: $|f'(x) - f'(y)| \le L |x - y|$ and
# $\eta < 2 / L$. Without that it is false, in two ways. On $x^4$ the curvature grows without bound, and for *every*
# learning rate there are starts that diverge, namely those with $4 \eta x^2 > 2$. On $|x|$ the slope does not shrink
# near the minimum, so that the steps do not either; there a schedule has to shrink them.

# %%
quartic = make_surface("quartic", lambda x: x[0] ** 4, [1.0])
for start in (0.9, 1.1):
    run = gradlab.fit(surface_task(quartic, start=[start]), gradlab.sgd(0.5), steps=100)
    print(f"x^4 from {start}, rate 0.5: {run.reason} ended the run, the smallest f was {run.loss.min():.4f}")

kink = make_surface("kink", lambda x: jnp.abs(x[0]), [1.03])
constant = path(kink, gradlab.sgd(0.1), 300)
falling = path(kink, gradlab.sgd(gradlab.inverse_time_schedule(0.1, rate=0.03)), 300)
print(f"|x| with rate 0.1: the last two points are {constant[-2]:.3f} and {constant[-1]:.3f}")
print(f"|x| with rate 0.1 / (1 + 0.03 t): the largest of the last ten is {np.abs(falling[-10:]).max():.3f}")

# %% [markdown]
# The constant rate swings between **0.030** and **-0.070**, the falling one is within **0.010** of the minimum and
# comes closer.
#
# ## Three learning rates
#
# The same three learning rates 1, 0.1 and 0.01 on $f(x) = x^2 + \sin x$, from 2.5.

# %%
paths = {f"rate {rate}": path(curve, gradlab.sgd(rate), 201) for rate in (1.0, 0.1, 0.01)}
first = {name: points[:31] for name, points in paths.items()}
upper, lower = plots.iterates(grid, heights, first, minima=curve.minima, title=r"$x^2 + \sin x$ from 2.5")
upper.figure

# %%
print(f"the minimum is at {curve.minima[0, 0]:.4f}, with the curvature {curve.hessians[0, 0, 0]:.4f}")
for name, points in paths.items():
    print(f"{name}: after 50 steps {points[50]:.4f}, after 199 and 200 steps {points[199]:.4f} and {points[200]:.4f}")
print(f"largest rate that converges near the minimum: {2 / curve.hessians[0, 0, 0]:.4f}")

# %% [markdown]
# - The rate 0.1 is at the minimum, **-0.4502**, after 50 steps.
# - The rate 0.01 follows the same curve ten times as slowly: after 200 steps it has come to **-0.4052**.
# - The rate 1 never settles. It ends in a cycle of two points, **1.5708** and **-1.5708**, which are $\pm\pi/2$: from
#   there a step of length $f'(\pm\pi/2) = \pm\pi$ leads to the other one. The largest rate that could converge is
#   $2 / f'' = $ **0.8213**.
#
# A well-known tutorial prints this experiment for "$f(x) = x + \sin x$". A superscript was lost. That function has
# the slope $1 + \cos x \ge 0$ and no minimum at all: every learning rate creeps towards the level point $-\pi$, ever
# slower.

# %%
staircase = make_surface("staircase", lambda x: x[0] + jnp.sin(x[0]), [2.5])
points = path(staircase, gradlab.sgd(0.1), 2001)
for step in (500, 1000, 2000):
    print(f"after {step} steps {points[step] + np.pi:.4f} above -pi; 2 / (rate * steps) = {2 / (0.1 * step):.4f}")

# %% [markdown]
# After 2000 steps it is still **0.0101** away. The distance falls like $2 / (\eta t)$ and not geometrically, because
# the curvature vanishes at $-\pi$ too.
#
# ## Which valley? Two starts
#
# Maximising is minimising the negative: to climb the hill $25 \sin x - x^2$ we descend on $x^2 - 25 \sin x$. (Here too
# the tutorial's superscript is missing; "$25 \sin x - x$" has no highest peak.) We start once at $A = -2$ and once at
# $B = -1$.

# %%
hill = sine_hill()
wide = np.linspace(-8, 8, 600)
starts = {"A, from -2": [-2.0], "B, from -1": [-1.0]}
paths = {name: path(hill, gradlab.sgd(0.01), 61, start=start) for name, start in starts.items()}
height = lambda x: -jax.vmap(hill.function)(jnp.reshape(x, (-1, 1)))
upper, lower = plots.iterates(
    wide, height(wide), paths, labels=("x", "25 sin x - x²"), title="the same climb from two starts"
)
upper.figure

# %%
for name, points in paths.items():
    print(f"{name}: ends at x = {points[-1]:.4f}, height {height(points[-1])[0]:.4f}")
peak = hill.minima[0, 0]
print(f"the highest peak of all is at x = {peak:.4f}, height {height(peak)[0]:.4f}")

# %% [markdown]
# $A$ climbs to **-4.3564**, a peak of height **4.4543**; $B$ climbs to **1.4542**, the highest one, of height
# **22.7156**. Both have done the same: they went uphill until it was level. The slope at a point knows nothing of a
# peak behind a valley.
#
# ## Where a run ends depends on where it starts
#
# Now all starts at once, on $\sin(x)\, e^{-x^2/20}$, a function with a global minimum, a shallow local one, and ever
# shallower ones outside. `gradlab.minimize` can be vmapped over its start.

# %%
wave = damped_sine()
descend = lambda x: gradlab.minimize(wave.function, x, gradlab.sgd(0.1), max_steps=2000).params
starts = np.linspace(-2 * np.pi, 2 * np.pi, 161)
ends = jax.vmap(descend)(starts[:, None])[:, 0]

fig, (above, below) = plt.subplots(2, 1, figsize=(6.5, 5), sharex=True, layout="constrained")
above.plot(starts, jax.vmap(wave.function)(starts[:, None]), color="black")
above.plot(wave.minima[:, 0], wave.values, "*", ms=13, mfc="#F0E442", mec="black")
above.set(ylabel="f(x)", title="where descent ends, for every start")
below.plot(starts, ends, ".", ms=5)
below.set(xlabel="start", ylabel="end")
plt.show()
best = np.abs(ends - wave.minima[0, 0]) < 1e-3
print(f"the global minimum, {wave.minima[0, 0]:.4f}, is reached from {best.mean():.0%} of the starts,")
print(f"which lie between {starts[best].min():.2f} and {starts[best].max():.2f}")

# %% [markdown]
# From **45 %** of the starts the run ends at the global minimum **-1.43**; these are the starts between the two
# neighbouring maxima. From all others it ends in another valley, those on the left outside of the picture.
#
# ## Learning rate and number of steps
#
# How far a run comes depends on two numbers, the learning rate and the steps. A sweep trains all the rates at once and
# notes the loss on the way, so that one run gives the whole map.

# %%
result = gradlab.sweep(
    surface_task(wave),
    gradlab.sgd,
    {"learning_rate": {"log": [1e-3, 10.0]}},
    trials=49,
    sampler="grid",
    steps=200,
    eval_every=4,
)
ax = plots.rate_by_steps(result)
ax.set_title("loss on $\\sin(x)\\,e^{-x^2/20}$ from 0", loc="left", fontsize=10)
ax.figure

# %%
final = result.metrics["eval_loss"][:, 0, :]
print(f"the global minimum has the loss {wave.values[0]:.4f}, the sweep's best run {final[:, -1].min():.4f}")
rates = result.table["learning_rate"].to_numpy()
for steps in (20, 200):
    good = final[:, steps // 4] < wave.values[0] + 0.01
    print(f"after {steps} steps the rates from {rates[good].min():.3f} on have come within 0.01 of it")
print(f"near the minimum the largest rate that converges is {2 / wave.hessians[0, 0, 0]:.2f}")

# %% [markdown]
# Below, the runs do not arrive: rate times steps is too small. Ten times the steps allow a tenth of the rate: with 20
# steps it takes a rate of **0.121**, with 200 steps **0.012** does. Above **2.00**, which is $2 / f''$, the runs bounce
# between two points and then without any rule, and the largest rates throw the run out of the valley, onto the plain.
# The last column of the map as a curve:

# %%
ax = plots.sensitivity(result)
ax.set(title="loss after 200 steps")
ax.figure

# %% [markdown]
# The valley of good learning rates is wide, more than two decades, and its right edge is sharp. That is the usual
# picture, and the reason to search a learning rate on a logarithmic grid.
#
# ## When to stop
#
# A common rule stops when the value no longer changes: $|f(x_{k+1}) - f(x_k)| \le \varepsilon$. (One text writes it as
# `while |f(th(k+1) - f(th(k))| > e`, with a bracket lost and with a point that does not exist yet when the loop begins.
# It has to be a loop that steps first and then asks.) `gradlab.Tolerance` is that rule.

# %%
for rate in (0.1, 0.01, 0.0001):
    run = gradlab.fit(surface_task(curve), gradlab.sgd(rate), steps=5000, stop=gradlab.Tolerance(1e-3))
    print(f"rate {rate}: {run.reason} ends the run after {run.steps} steps, at {run.params[0]:.3f}")

# %% [markdown]
# With the smallest rate the rule ends the run at **1.591**, far from the minimum at $-0.45$. A change of the loss is
# about $\eta f'(x)^2$. It is small near a level point, and with a small learning rate it is small anywhere.
#
# **Answer.** Follow the slope down, in steps that are neither so short that the run does not arrive nor longer than
# $2 / f''$. That finds *a* level point: which one is decided by the start, and no local rule can tell whether it is the
# lowest.
