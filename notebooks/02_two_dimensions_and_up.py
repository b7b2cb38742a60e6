# %% [markdown]
# # 2. Two dimensions and up: why the gradient?
#
# **Question.** On a curve there are two ways to go, left or right. On a surface there are infinitely many. Which one is
# the steepest, and what is there on surfaces that no curve has?
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
from gradlab.tasks import TASKS, bounded_saddle, make_surface, plateau, surface_task

jax.config.update("jax_enable_x64", True)
plt.rcParams["axes.prop_cycle"] = plt.cycler(color=plots.PALETTE)

# %% [markdown]
# ## Slices, partial derivatives and the tangent plane
#
# Our surface is $f(x, y) = \sin x + \frac{y}{2} + \frac{x^2 + xy + y^2}{4}$. Cut it with two vertical planes through
# the origin: each cut is a curve of one variable, $f(x, 0)$ and $f(0, y)$. The slopes of these are the *partial
# derivatives* $\partial f / \partial x$ and $\partial f / \partial y$, together the *gradient* $\nabla f$. The two
# tangents span the *tangent plane* $f(0,0) + \frac{\partial f}{\partial x}\,x + \frac{\partial f}{\partial y}\,y$.

# %%
f = lambda p: jnp.sin(p[0]) + p[1] / 2 + (p[0] ** 2 + p[0] * p[1] + p[1] ** 2) / 4
surface = make_surface("bowl", f, [2.0, 1.5])
axis = np.linspace(-3, 3, 61)
x, y = np.meshgrid(axis, axis)
z = jax.vmap(jax.vmap(f))(np.stack([x, y], -1))
origin = jnp.zeros(2)
g = jax.grad(f)(origin)

fig = plt.figure(figsize=(9, 4.2), layout="constrained")
solid = fig.add_subplot(1, 3, (1, 2), projection="3d")
solid.plot_surface(x, y, z, cmap="cividis", alpha=0.55, linewidth=0, rcount=30, ccount=30)
tangent = f(origin) + g[0] * x + g[1] * y
solid.plot_surface(*(part[15:46, 15:46] for part in (x, y, tangent)), color=plots.PALETTE[1], alpha=0.45)
solid.plot(axis, 0 * axis, z[30], color=plots.PALETTE[0], lw=2.5)
solid.plot(0 * axis, axis, z[:, 30], color=plots.PALETTE[2], lw=2.5)
solid.set(xlabel="x", ylabel="y", title="two slices and the tangent plane at (0, 0)")
solid.view_init(elev=28, azim=-118)
solid.set_box_aspect((1, 1, 0.7), zoom=1.15)
slices = fig.add_subplot(1, 3, 3)
for name, cut, slope, color in (("f(x, 0)", z[30], g[0], 0), ("f(0, y)", z[:, 30], g[1], 2)):
    slices.plot(axis, cut, color=plots.PALETTE[color], lw=2, label=name)
    slices.axline((0, f(origin)), slope=slope, color=plots.PALETTE[color], ls="--", lw=1)
slices.set(xlabel="x or y", title="slices and their tangents", ylim=(-2, 5))
slices.legend()
plt.show()
print(f"the gradient at the origin is ({g[0]:.3f}, {g[1]:.3f}), its length {jnp.linalg.norm(g):.4f}")

# %% [markdown]
# ## Any direction
#
# The slope in the direction of a unit vector $e$ is the *directional derivative*
#
# $$D_e f = \nabla f \cdot e = |\nabla f| \cos \alpha,$$
#
# with $\alpha$ the angle between $e$ and the gradient. So there is no need to try directions: a cosine is largest at
# $\alpha = 0$. The gradient points to where the surface rises fastest, its length is the slope there, and across it the
# surface is level. We check it with secants in 24 directions, and draw the gradients over the level lines.

# %%
angles = np.linspace(-np.pi, np.pi, 25)
heading = np.arctan2(g[1], g[0])
units = np.stack([np.cos(angles + heading), np.sin(angles + heading)], -1)
h = 1e-4
secants = (jax.vmap(f)(h * units) - jax.vmap(f)(-h * units)) / (2 * h)
arrows = jax.vmap(jax.grad(f))(np.stack([x, y], -1)[5::10, 5::10].reshape(-1, 2))

fig, (left, right) = plt.subplots(1, 2, figsize=(9, 4), layout="constrained")
fine = np.linspace(-np.pi, np.pi, 200)
left.plot(np.degrees(fine), jnp.linalg.norm(g) * np.cos(fine), label=r"$|\nabla f|\,\cos\alpha$")
left.plot(np.degrees(angles), secants, "o", ms=5, label="secants")
left.set(xlabel="angle to the gradient in degrees", ylabel="slope", xticks=[-180, -90, 0, 90, 180])
left.legend()
right.contour(x, y, z, levels=14, colors="#8A8A8A", linewidths=0.8)
right.quiver(x[5::10, 5::10], y[5::10, 5::10], arrows[:, 0], arrows[:, 1], color=plots.PALETTE[1], width=0.007)
right.set(xlabel="x", ylabel="y", aspect="equal", title="gradients stand on the level lines")
plt.show()
print(f"steepest of the 24 directions: {secants.max():.4f}, at {np.degrees(angles[secants.argmax()]):.0f} degrees")
print(f"largest difference from the cosine: {np.abs(secants - jnp.linalg.norm(g) * np.cos(angles)).max():.5f}")

# %% [markdown]
# The steepest direction has the slope **1.1180**, the length of the gradient, at an angle of **0** degrees. (One text
# calls $-\nabla f$ "the direction of the smallest gradient", and loses the minus and the nabla of
# $\theta_{t+1} = \theta_t - \alpha \nabla J(\theta_t)$. It is the direction of steepest descent.)
#
# "Steepest" depends on how a step is measured, though. Among all steps of length 1 the best is along the gradient. If
# instead no coordinate may move by more than 1, the best step is the *sign* of the gradient, which goes to a corner.
# That is the idea of sign descent, from which Adam is not far away.
#
# ## Gradient descent
#
# $$\theta_{t+1} = \theta_t - \eta \nabla f(\theta_t)$$
#
# has no more to it in a million dimensions than in two.

# %%
paths = {}
for rate in (1.0, 0.2, 0.05):
    run = gradlab.fit(surface_task(surface), gradlab.sgd(rate), steps=60, eval_every=60, trajectory=True)
    paths[f"rate {rate}"] = run.trajectory
low = gradlab.minimize(f, jnp.zeros(2)).params
ax = plots.trajectory(axis, axis, z, paths, minima=low, title="descent crosses the level lines at right angles")
ax.set_aspect("equal")
ax.figure

# %%
print(f"the minimum is at ({low[0]:.4f}, {low[1]:.4f})")
for name, points in paths.items():
    print(f"{name}: after 59 steps {np.linalg.norm(points[-1] - low):.1e} away")

# %% [markdown]
# ## In many dimensions a random direction is a bad one
#
# A cosine is the scalar product of two unit vectors. Between random ones in $n$ dimensions it is about $1/\sqrt{n}$. We
# measure it on a linear classifier of handwritten digits, which has 650 parameters: the slope along the gradient, and
# along 500 random directions.

# %%
task = TASKS["digits_linear"]()
params, model_state = task.init(jax.random.key(0))
loss = lambda p, batch: task.loss(p, model_state, batch, jax.random.key(0))[0]
gradient = jax.grad(loss)(params, task.train)
length = gradlab.global_norm(gradient)
scaled = lambda direction: jax.tree.map(lambda leaf: leaf / gradlab.global_norm(direction), direction)
random = instruments.random_directions(jax.random.key(1), params, 500, scale="none", biases=True)
random = jax.vmap(scaled)(random)
slopes = jax.vmap(lambda direction: jax.jvp(lambda p: loss(p, task.train), (params,), (direction,))[1])(random)

print(f"{task.num_params} parameters; slope along the gradient {length:.3f}")
print(f"along random directions {jnp.sqrt(jnp.mean(slopes**2)):.4f} (root mean square), at most {slopes.max():.3f}")
print(f"length of the gradient over sqrt(n) = {length / task.num_params**0.5:.4f}")

# %% [markdown]
# Along a random direction the slope is **0.0763** in the mean, which is **2.066** over $\sqrt{650}$ up to the luck of
# the draw; the best of 500 has a slope of **0.224**, a ninth of the gradient's. Whoever searches at random in many
# dimensions moves across the slope nearly all of the time.

# %%
reach = np.linspace(-2, 2, 41)
fig, ax = plt.subplots(figsize=(6.5, 3.8), layout="constrained")
along = lambda direction: instruments.line(loss, params, task.train, direction, reach)
some = jax.tree.map(lambda leaf: leaf[:20], random)
ax.plot(reach, jax.vmap(along)(some).T, color="#B8B8B8", lw=0.8)
ax.plot([], [], color="#B8B8B8", label="20 random directions")
ax.plot(reach, along(scaled(gradient)), color=plots.PALETTE[1], lw=2, label="along the gradient")
ax.set(xlabel="distance", ylabel="training loss", title="digits: the loss along lines through the start")
ax.legend()
plt.show()

# %% [markdown]
# ## What curves do not have: saddles
#
# At a level point the gradient says nothing, and the second derivatives decide. All eigenvalues of the Hessian matrix
# positive: a minimum. All negative: a maximum. Of both signs: a *saddle*, a minimum in one direction and a maximum in
# another. The surface $x^2 - y^2 + \frac{y^4}{2}$ has one at the origin, and minima at $(0, \pm 1)$.

# %%
saddle = bounded_saddle()
box = np.linspace(-1.5, 1.5, 121)
height = jax.vmap(jax.vmap(saddle.function))(np.stack(np.meshgrid(box, box), -1))
starts = {"on the ridge": [1.0, 0.0], "0.001 beside": [1.0, 0.001], "0.1 beside": [1.3, 0.1], "far": [-1.2, -0.6]}
runs = {}
for name, start in starts.items():
    task = surface_task(saddle, start=start)
    runs[name] = gradlab.fit(task, gradlab.sgd(0.05), steps=140, eval_every=140, trajectory=True)
paths = {name: run.trajectory for name, run in runs.items()}

fig, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
plots.trajectory(box, box, height, paths, minima=saddle.minima, saddles=saddle.saddles, ax=left)
for name, run in runs.items():
    right.plot(run.loss, lw=1.8, label=name)
right.set(xlabel="step", ylabel="f", title="what looks like the end may be a saddle")
plt.show()

# %%
for point in (saddle.saddles[0], saddle.minima[0]):
    found = instruments.classify(lambda p, _: saddle.function(p), jnp.array(point), None, jax.random.key(0), m=2)
    kind = instruments.KINDS[found.kind]
    print(f"at {point}: {kind}, curvatures from {found.smallest:.1f} to {found.largest:.1f}")
beside = paths["0.001 beside"][:, 1]
print(f"on the ridge the run ends at {paths['on the ridge'][-1].round(4)}")
print(f"beside it, y grows by {beside[11] / beside[10]:.4f} a step, and passes 0.5 at step {np.argmax(beside > 0.5)}")

# %% [markdown]
# - A start exactly on the ridge ends at the saddle: by symmetry it never learns that there is a way down.
# - A start 0.001 beside it comes near the saddle, and leaves it. Near the saddle every step multiplies the distance
#   from the ridge by $1 + 2\eta = 1.1$, measured **1.1000**, so that it takes about $\ln(500) / \ln(1.1) = 65$ steps to
#   get from 0.001 to 0.5; the run passes it at step **67**. Meanwhile the loss lies on a *plateau* and seems to have
#   converged.
# - Saddles do not trap a run, therefore. They cost time, and the less the farther the run is from the ridge. The noise
#   of minibatches, which is the subject of the next notebook, helps it off.
#
# ## Plateaus
#
# On $1 - e^{-(x^2+y^2)/2}$ the plain around the bowl is flat: gradient and Hessian vanish there together. We start at
# distances 1 to 5 from the minimum, and stop when the gradient is shorter than $10^{-4}$.

# %%
plain = plateau()
distances = jnp.arange(1.0, 6.0)
descend = lambda r: gradlab.minimize(
    plain.function, jnp.array([0.8, 0.6]) * r, gradlab.sgd(0.5), max_steps=20_000, tol=1e-4
)
found = jax.vmap(descend)(distances)
slope = jax.vmap(lambda r: jnp.linalg.norm(jax.grad(plain.function)(jnp.array([0.8, 0.6]) * r)))(distances)
for r, s, steps, value in zip(distances, slope, found.steps, found.value, strict=True):
    print(f"from {r:.0f}: gradient {s:.1e} at the start; {steps:5d} steps, then f = {value:.4f}")

fig, ax = plt.subplots(figsize=(6.5, 3.6), layout="constrained")
r = np.linspace(0, 5.5, 200)
ax.plot(r, 1 - np.exp(-(r**2) / 2), color="black", label="height")
ax.plot(r, r * np.exp(-(r**2) / 2), label="length of the gradient")
ax.plot(r, (1 - r**2) * np.exp(-(r**2) / 2), ls="--", label="curvature outwards")
ax.set(xlabel="distance from the minimum", title="on a plateau slope and curvature vanish together")
ax.legend()
plt.show()

# %% [markdown]
# From distance 3 the run takes **44** steps, from 4 **458**; from 5 it takes **0**, for the gradient there,
# **1.9e-05**, is already below the bound. A short gradient has two meanings, "near the minimum" and "far from
# everything", and the gradient alone cannot tell them apart: the loss of **1.0000** can.
#
# **Answer.** The gradient is the direction of steepest ascent, because the slope in any direction is its length times a
# cosine; in many dimensions nearly all other directions are worse by $\sqrt{n}$. What is new on surfaces are saddles,
# which delay a run, and more room for plateaus, which can stop it.
