"use strict";
// What the page knows: the data of the sweep, and which of its trials are marked and shown.

const data = JSON.parse(document.getElementById("data").textContent);
const trials = data.trials.uid.map((_, trial) => trial);
const keptAt = new Map(data.kept.map((trial, place) => [trial, place]));

const state = {
  metric: data.metrics[0],
  marked: new Map(), // trial -> the number of its colour
  words: [], // of the filter
  brushes: new Map(), // name of an axis of the parallel coordinates -> [low, high] of each stretch that is kept
  sort: {column: 0, descending: false},
  rows: data.drawn.rows,
};

const element = (id) => document.getElementById(id);

/** Appends an element with a text; whatever the text is, it is no markup. */
function append(parent, tag, text = "", className = "") {
  const child = parent.appendChild(document.createElement(tag));
  child.textContent = text;
  child.className = className;
  return child;
}

/** A count with its thousands apart. */
const counted = (count) => count.toLocaleString("en");

/** A number in three digits, with more where it is close to 1, as decay rates are; anything else as it is. */
function short(value) {
  if (typeof value !== "number" || (Number.isInteger(value) && Math.abs(value) < 1e6)) return String(value);
  const nines = value > 0.9 && value < 1 ? -Math.floor(Math.log10(1 - value)) - 1 : 0;
  const rounded = Number(value.toPrecision(Math.max(3, nines + 2)));
  const size = Math.abs(rounded);
  return size !== 0 && (size < 1e-3 || size >= 1e5) ? rounded.toExponential() : String(rounded);
}

/** A text that fits beside an axis. */
const clipped = (text) => (text.length > 24 ? `${text.slice(0, 23)}…` : text);

/** The value that a trial gives to a hyperparameter, as a text. */
function valueText(parameter, trial) {
  if (parameter.ticks.length) return parameter.ticks[parameter.values[trial]];
  return short((parameter.shown ?? parameter.values)[trial]);
}

/** The final value of a trial with its spread over the seeds; empty if it has none. */
function scoreText(metric, trial) {
  const mean = metric.mean[trial], std = metric.std[trial];
  if (mean === null) return "";
  return short(mean) + (std === null ? "" : ` ± ${Number(std.toPrecision(2))}`);
}

/** Where charts of final values show a trial: at its value or, if that is beyond, at the ceiling. */
function height(metric, trial) {
  const mean = metric.mean[trial];
  return mean === null || metric.ceiling === null ? mean : Math.min(mean, metric.ceiling);
}

/** Whether a trial ended with a value that is beyond the ceiling. */
const beyondCeiling = (metric, trial) => scored(trial, metric) && height(metric, trial) < metric.mean[trial];

/** Whether a trial ended with a value of the metric. */
const scored = (trial, metric = state.metric) => metric.mean[trial] !== null;

/** Whether a trial may be best: one that was stopped because others were better may not, whatever its last value. */
const competes = (trial, metric = state.metric) => scored(trial, metric) && data.trials.status[trial] !== "stopped";

/** What those without a value of the metric are called. */
function lostWord() {
  const lost = trials.filter((trial) => !scored(trial));
  return lost.every((trial) => data.trials.status[trial] === "diverged") ? "diverged" : "no value";
}

/** All trials, best first by the metric, then those that were stopped, those without a value last. */
function ranking(metric) {
  const sign = metric.mode === "min" ? 1 : -1;
  const group = trials.map((trial) => (competes(trial, metric) ? 0 : scored(trial, metric) ? 1 : 2));
  const cost = metric.mean.map((mean) => sign * (mean ?? 0));
  return [...trials].sort((a, b) => group[a] - group[b] || cost[a] - cost[b] || a - b);
}

/** A function of the trial that says whether the filter and the parallel coordinates let it pass. */
function passing() {
  const kept = axes().filter(({name}) => state.brushes.has(name));
  const inside = (value, name) => state.brushes.get(name).some(([low, high]) => low <= value && value <= high);
  const shown = trials.map(
    (trial) =>
      state.words.every((word) => rowText(trial).includes(word)) &&
      kept.every(({name, values}) => inside(values[trial], name)),
  );
  return (trial) => shown[trial];
}

/** The trials of charts that cannot hold all: the marked ones, the best, and an even share of the others. */
function sample() {
  const most = data.drawn.trials, order = ranking(state.metric);
  if (order.length <= most) return order;
  const best = order.slice(0, most / 2), others = order.slice(most / 2);
  const every = others.length / (most / 2);
  const share = Array.from({length: most / 2}, (_, index) => others[Math.floor(index * every)]);
  return [...new Set([...state.marked.keys(), ...best, ...share])];
}

/** Marks a trial in the lowest colour that is free, or takes its mark away. */
function toggle(trial) {
  if (state.marked.delete(trial)) return update();
  const taken = new Set(state.marked.values());
  let slot = 0;
  while (taken.has(slot)) slot += 1;
  state.marked.set(trial, slot);
  update();
}

/** Colour and dashes of a marked trial: different for the first 28. */
function markStyle(trial) {
  const slot = state.marked.get(trial), colors = data.colors.palette;
  const dashes = ["solid", "dash", "dot", "dashdot"];
  return {color: colors[slot % colors.length], dash: dashes[Math.floor(slot / colors.length) % dashes.length]};
}
