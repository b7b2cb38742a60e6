# %% [markdown]
# # 8. Beyond: no schedule, whole matrices, gradients through training, many devices
#
# **Question.** The last notebooks left four loose ends. The best schedule depends on a horizon that must be known
# beforehand. A rate for each parameter cannot turn an axis. Rates are found by trying. And a model may not fit on one
# device. What is there beyond each of these limits?
#
# In this notebook a number in bold was measured by the cell above it.

# %%
# %matplotlib inline
import os

os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"  # before jax

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

import gradlab
from gradlab import plots, tasks

plt.rcParams["figure.dpi"] = 80
print(f"{jax.device_count()} devices, all of them this CPU")

# %% [markdown]
# ## No horizon to know: Schedule-Free
#
# A learning rate that falls to zero at step $T$ is very good at step $T$, and nowhere else. Schedule-Free (Defazio et
# al., 2024) keeps the rate constant and averages instead. With $z$ the base optimizer's iterate, $x$ the average and
# $y$ where the gradient is taken:
#
# $$ y = (1 - \beta)\, z + \beta\, x, \qquad z \leftarrow z - \eta\, \nabla f(y), \qquad
# x \leftarrow (1 - c)\, x + c\, z, \quad c = 1/t. $$
#
# One sweep trains Adam with a rate that falls linearly to zero at step 100, 200 or 400, or not at all: horizons are
# numbers like others. Eight seeds each, on the digits.

# %%
digits = tasks.TASKS["digits_mlp"](hidden=(32,))
plan = {"sampler": "grid", "seeds": 8, "steps": 400, "batch_size": 64, "eval_every": 20}
falling = lambda horizon: gradlab.adam(gradlab.linear_schedule(0.03, 0.0, horizon))
free = lambda learning_rate: gradlab.schedule_free_adamw(learning_rate, weight_decay=0.0)
horizons = [100.0, 200.0, 400.0, 1e9]
scheduled = gradlab.sweep(digits, falling, {"horizon": horizons}, trials=4, **plan)
averaged = gradlab.sweep(digits, free, {"learning_rate": [0.03]}, trials=1, **plan)
step, losses = scheduled.curve("valid_loss")
losses = dict(zip(scheduled.values("horizon"), losses.mean(1), strict=True))
average = averaged.curve("valid_loss")[1].mean(1)[0]
for horizon in horizons[:3]:
    at = list(step).index(int(horizon))
    print(f"step {int(horizon)}: scheduled for it {losses[horizon][at]:.3f}, ", end="")
    print(f"constant {losses[1e9][at]:.3f}, Schedule-Free {average[at]:.3f}")

fig, ax = plt.subplots(figsize=(8, 3.8), layout="constrained")
for index, horizon in enumerate(horizons):
    label, shown = f"falls to 0 at {horizon:.0f}" if horizon < 1e9 else "constant", step <= horizon
    style = {"color": plots.PALETTE[index], "ls": plots.style.DASHES[index]}
    ax.plot(step[shown], losses[horizon][shown], label=label, lw=1.6, **style)
ax.plot(step, average, color="black", lw=2, label="Schedule-Free")
ax.set(xlabel="step", ylabel="validation loss, mean of 8 seeds", ylim=(0.05, 0.25), xlim=(0, 400))
ax.legend(frameon=False)
plt.show()

# %% [markdown]
# One run that need not know its length keeps up with three runs that each know theirs: it is at **0.086**, **0.066**
# and **0.065** where they end. The constant rate, which knows as little, stays above. What is evaluated is $x$, not
# $y$, which the caller holds: `gradlab.eval_params` finds it, and `fit` and `sweep` use it.
#
# ## Whole matrices: Muon
#
# Notebook 5 turned a valley, and Adam lost its advantage. If the parameters are a matrix, an optimizer can do better
# than scale its entries. Muon takes the averaged gradient $M = U \Sigma V^\top$ and makes all its singular values
# equal: the step is about $U V^\top$, however the valley lies. It needs no decomposition: five steps of a polynomial
# in $M$ do.

# %%
rng, n = np.random.default_rng(0), 16
turn = np.linalg.qr(rng.normal(size=(n, n)))[0]
curvature = jnp.asarray((turn * np.logspace(0, 4, n)) @ turn.T, jnp.float32)
goal = jnp.asarray(rng.normal(size=(n, n)), jnp.float32)


def start(key):
    return {"kernel": jnp.zeros((n, n))}, {}


def valley(params, model_state, batch, key):
    apart = params["kernel"] - goal
    return 0.5 * jnp.sum((apart @ curvature) * apart), model_state


matrix = tasks.make_task(start, valley)
gradient = jax.grad(lambda params: valley(params, {}, None, None)[0])(start(None)[0])
for name, tx in {
    "Muon": gradlab.scale_by_muon(),
    "with eight better steps": gradlab.scale_by_muon("polar_express_8"),
}.items():
    values = jnp.linalg.svd(tx.update(gradient, tx.init(gradient))[0]["kernel"], compute_uv=False)
    print(f"{name}: {np.sum(np.asarray(values) > 0.5)} of {n} singular values between 0.5 and {values.max():.1f}")
values = jnp.linalg.svd(gradient["kernel"], compute_uv=False)
print(f"those of the gradient: largest / smallest is above 1000: {values[0] / values[-1] > 1000}")

decayed = lambda make: lambda learning_rate: make(gradlab.linear_schedule(learning_rate, 0.0, 200))
makes = {
    "momentum": (lambda rate: gradlab.sgd(rate, momentum=0.9), [1e-6, 1e-3]),
    "Adam": (gradlab.adam, [1e-2, 1.0]),
    "Muon": (gradlab.muon, [1e-2, 1.0]),
}
curves = {}
for name, (make, bounds) in makes.items():
    rates = {"learning_rate": {"log": bounds}}
    result = gradlab.sweep(matrix, decayed(make), rates, trials=16, sampler="grid", steps=200, eval_every=200)
    curves[name] = result.curves(result.best()["uid"].iloc[0])["loss"][0]
print(f"Muon ends lower than Adam by a factor of 100 or more: {curves['Adam'][-1] > 100 * curves['Muon'][-1]}")
ax = plots.race(curves, title="a valley for a 16 x 16 matrix, turned; the best of 16 rates each")
ax.figure.set_dpi(80)
ax.figure

# %% [markdown]
# The polynomial makes **10** of 16 singular values about equal and leaves the smallest behind; eight better steps
# reach more of them. For this valley five are enough. On networks it depends: [a page on matrix
# optimizers](../gradlab/docs/matrices.md) has the contests, with spread and with the price of a step.
#
# ## Gradients through a whole run
#
# An optimizer of gradlab is a tree of numbers, a run is a function of it, and JAX differentiates functions. The
# derivative of the final loss by the learning rate is a *hypergradient*. On a valley of condition 100, thirty steps
# with momentum 0.5:

# %%
bowl = tasks.quadratic(condition=100.0, dim=8)


def log_loss(tx, steps):
    def one(carry, _):
        x, state = carry
        updates, state = tx.update(jax.grad(bowl.function)(x), state, x)
        return (gradlab.apply_updates(x, updates), state), None

    x = jnp.asarray(bowl.start, jnp.float32)
    return jnp.log10(bowl.function(jax.lax.scan(one, (x, tx.init(x)), length=steps)[0][0]))


rates = jnp.linspace(0.002, 0.034, 65)
lanes = gradlab.population(gradlab.sgd, learning_rate=rates, momentum=0.5)
values, slopes = jax.jit(jax.vmap(jax.value_and_grad(lambda tx: log_loss(tx, 30))))(lanes)
slopes = gradlab.hyperparams(slopes)["learning_rate"]
middle = (values[2:] - values[:-2]) / (rates[2:] - rates[:-2])
best = int(values.argmin())
print(f"hypergradient at the rate 0.010: {slopes[16]:.0f}; from the neighbours' losses: {middle[15]:.0f}")
print(f"the best rate is {rates[best]:.4f}; 0.002 beyond it the slope is {slopes[best + 4]:.0f}")

fig, (left, right) = plt.subplots(1, 2, figsize=(10, 3.4), layout="constrained")
left.plot(rates, values, color=plots.PALETTE[0])
left.set(xlabel="learning rate", ylabel="log10 of the loss after 30 steps")
right.plot(rates, slopes, color=plots.PALETTE[0], label="hypergradient")
right.plot(rates[1:-1], middle, ":", color=plots.PALETTE[1], lw=2, label="from neighbours")
right.set(xlabel="learning rate", ylabel="slope", yscale="symlog")
right.set_yscale("symlog", linthresh=100)
right.legend(frameon=False)
plt.show()

# %% [markdown]
# Below the best rate it says "longer", beyond it "shorter", and there it is steep: near the edge of stability
# hypergradients explode like the run itself. `gradlab.sweep(..., scheduler="hypergrad")` therefore takes only their
# direction.
#
# Where a number can be learnt, sixteen can. Let every step have a rate of its own, and descend on the final loss. On a
# quadratic theory knows good rates: Chebyshev's, the best for the worst spectrum between 1 and 100.

# %%
steps = 16
table = lambda step, *, rates: rates[step.astype(int)]
with_rates = lambda rates: gradlab.sgd(gradlab.make_schedule(table, rates=rates))
final = jax.jit(lambda logs: log_loss(with_rates(jnp.exp(logs)), steps))
tx = gradlab.adam(gradlab.linear_schedule(0.03, 0.0, 600))


@jax.jit
def learn(logs):
    def one(carry, _):
        logs, state = carry
        updates, state = tx.update(jax.grad(final)(logs), state, logs)
        return (gradlab.apply_updates(logs, updates), state), None

    return jax.lax.scan(one, (logs, tx.init(logs)), length=600)[0][0]


constant = min(float(final(jnp.full(steps, jnp.log(rate)))) for rate in np.linspace(0.01, 0.022, 25))
chebyshev = jnp.log(jax.vmap(gradlab.chebyshev_schedule(1.0, 100.0, period=steps))(jnp.arange(steps)))
learnt = learn(chebyshev)
print(f"log10 of the loss after 16 steps: best constant rate {constant:.1f}, ", end="")
print(f"Chebyshev {final(chebyshev):.1f}, learnt {final(learnt):.1f}")

fig, ax = plt.subplots(figsize=(8, 3.4), layout="constrained")
ax.semilogy(np.sort(np.exp(chebyshev))[::-1], "s--", color=plots.PALETTE[1], label="Chebyshev")
ax.semilogy(np.sort(np.exp(learnt))[::-1], "o-", color=plots.PALETTE[0], label="learnt")
for index, value in enumerate(np.logspace(0, 2, 8)):
    ax.axhline(1 / value, color="0.7", lw=0.8, ls=":", label="1 / eigenvalue" if index == 0 else None)
ax.set(xlabel="rates in descending order", ylabel="learning rate")
ax.legend(frameon=False)
plt.show()

# %% [markdown]
# The learnt rates know this valley: they bring the exponent from **-0.3** to **-2.2**, and many have moved to inverses
# of its eight eigenvalues, each of which removes one direction for good. Chebyshev's have to serve every valley with
# this condition number.
#
# ## A state over many devices
#
# Adam keeps two numbers for every parameter. Where the parameters are split over devices, the state should be split
# alike. `gradlab.state_specs` derives the layout of any optimizer's state from that of the parameters.

# %%
mesh = jax.make_mesh((8,), ("devices",), axis_types=(jax.sharding.AxisType.Auto,))
P = PartitionSpec
params = {
    "embedding": jnp.ones((4096, 256)),
    "up": {"kernel": jnp.ones((256, 1024)), "bias": jnp.zeros(1024)},
    "down": {"kernel": jnp.ones((1024, 256)), "bias": jnp.zeros(256)},
}
layout = {
    "embedding": P("devices"),
    "up": {"kernel": P(None, "devices"), "bias": P("devices")},
    "down": {"kernel": P("devices"), "bias": P()},
}
on_mesh = lambda specs: jax.tree.map(lambda spec: NamedSharding(mesh, spec), specs, is_leaf=lambda s: isinstance(s, P))
megabytes = lambda tree: sum(leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves(tree)) / 1e6
makes = {
    "SGD, momentum": gradlab.sgd(0.1, momentum=0.9),
    "AdamW": gradlab.adamw(1e-3),
    "Adafactor": gradlab.adafactor(1e-3),
}
sizes = {}
for name, tx in makes.items():
    specs = gradlab.state_specs(tx, layout, params)
    whole, split = tx.init(params), jax.jit(tx.init, out_shardings=on_mesh(specs))(params)
    sizes[name] = megabytes(whole), megabytes(split)
    print(f"{name}: {sizes[name][0]:.2f} MB of state on each device if copied, {sizes[name][1]:.2f} MB if split")

tx = gradlab.adamw(1e-3)
specs = gradlab.state_specs(tx, layout, params)
print("AdamW's second moment of the kernel 'up':", specs[0].nu["up"]["kernel"])


def train(params, state):
    for _ in range(3):
        updates, state = tx.update(jax.tree.map(jnp.sin, params), state, params)
        params = gradlab.apply_updates(params, updates)
    return params


split = jax.device_put(params, on_mesh(layout)), jax.jit(tx.init, out_shardings=on_mesh(specs))(params)
there = jax.jit(train, out_shardings=on_mesh(layout))(*split)
here = jax.jit(train)(params, tx.init(params))
gap = max(float(jnp.abs(a - np.asarray(b)).max()) for a, b in zip(*map(jax.tree.leaves, (here, there)), strict=True))
print(f"three steps on eight devices and on one agree to rounding: {gap < 1e-6}")

fig, ax = plt.subplots(figsize=(7, 2.6), layout="constrained")
for index, (whole, split) in enumerate(sizes.values()):
    ax.barh(index - 0.18, whole, 0.34, color=plots.PALETTE[0], label="copied" if index == 0 else None)
    ax.barh(index + 0.18, split, 0.34, color=plots.PALETTE[1], label="split over 8" if index == 0 else None)
ax.set(yticks=range(len(sizes)), yticklabels=list(sizes), xlabel="MB of state on each device")
ax.invert_yaxis()
ax.legend(frameon=False)
plt.show()

# %% [markdown]
# An eighth, as it should be. Adafactor hardly needs it: it keeps a row and a column in the place of a matrix, and
# `state_specs` splits those that lie along the axis that is split.
#
# **Answer.** A horizon is not needed where an average does its work. An axis is not needed where a method looks at
# whole matrices. Rates can be learnt by gradients, as long as the run is not at its edge of stability. And a state
# follows its parameters to whatever devices they are on.
