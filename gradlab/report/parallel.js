// Parallel coordinates: an axis for each hyperparameter that varies and one for the metric.

const METRIC = "metric"; // the name of its axis

function parameterAxis(parameter) {
  const label = plain(parameter.axis);
  if (parameter.ticks.length) {
    const tickvals = parameter.ticks.map((_, index) => index);
    const ticktext = parameter.ticks.map(clipped);
    return {label, values: parameter.values, tickvals, ticktext, range: [-0.3, tickvals.length - 0.7]};
  }
  const {from, to, places} = placesOf(parameter.values, parameter.log);
  const ticks = ticksOf(from, to, parameter.log), margin = from === to ? 0.5 : 0;
  return {
    label, values: places, range: [from - margin, to + margin],
    tickvals: ticks.map(([place]) => place), ticktext: ticks.map(([, text]) => text),
  };
}

function metricAxis(metric) {
  const heights = trials.map((trial) => height(metric, trial));
  const {from, to, beyond, places, lost} = placesOf(heights, metric.log, metric.mode);
  const ticks = from === to && lost && !metric.mean.some((mean) => mean !== null) ? [] : ticksOf(from, to, metric.log);
  if (trials.some((trial) => beyondCeiling(metric, trial))) ticks.at(-1)[1] += " and more";
  if (lost) ticks.push([beyond, lostWord()]);
  const ends = lost ? [from, to, beyond] : [from, to];
  const margin = from === to && !lost ? 0.5 : 0;
  return {
    label: plain(metric.label), values: places, range: [Math.min(...ends) - margin, Math.max(...ends) + margin],
    tickvals: ticks.map(([place]) => place), ticktext: ticks.map(([, text]) => text),
  };
}

/** Numbers for the lines' colours and the scale that reads them: shares, then diverged, then one for each mark. */
function lineColors(drawn) {
  const {palette, context, diverged} = data.colors, share = shares(state.metric);
  const fixed = [diverged, context, ...palette], most = 1.5 + fixed.length;
  const colorscale = SCALE.map((color, index) => [index / (SCALE.length - 1) / most, color]);
  fixed.forEach((color, index) => colorscale.push([(1.01 + index) / most, color], [(2 + index) / most, color]));
  colorscale.push([1, fixed.at(-1)]);
  const color = drawn.map((trial) => {
    if (state.marked.has(trial)) return 3.5 + (state.marked.get(trial) % palette.length);
    if (state.marked.size) return 2.5; // light grey beside what is marked
    return competes(trial) ? share[trial] : scored(trial) ? 2.5 : 1.5;
  });
  return {color, colorscale, cmin: 0, cmax: most, showscale: false};
}

/** The axes of the parallel coordinates, with a place for each trial. */
function axes() {
  const parameters = data.parameters.map((parameter, index) => ({...parameterAxis(parameter), name: String(index)}));
  return [...parameters, {...metricAxis(state.metric), name: METRIC}];
}

/** Draws the parallel coordinates; the constraints and the order of the axes stay. */
function drawParallel() {
  const div = element("parallel"), drawn = sample(), all = axes();
  const names = (div.data?.[0].dimensions ?? all).map(({name}) => name);
  const dimensions = names.map((name) => all.find((axis) => axis.name === name)).map((axis) => ({
    ...axis,
    values: drawn.map((trial) => axis.values[trial]),
    ...(state.brushes.has(axis.name) && {constraintrange: state.brushes.get(axis.name)}),
  }));
  div.style.minWidth = `${110 * dimensions.length}px`;
  element("parallel-note").textContent = sampleNote(drawn);
  const trace = {
    type: "parcoords", dimensions, line: lineColors(drawn), labelfont: {size: 13}, tickfont: {size: 11},
    unselected: {line: {color: "#d9d9d9", opacity: 0.15}},
  };
  const layout = {height: 400, margin: {l: 60, r: 60, t: 50, b: 20}, font: FONT};
  return Plotly.react(div, [trace], layout, {responsive: true, displayModeBar: false});
}

/** Takes over the constraints on the axes; true if they changed. */
function readBrushes() {
  const before = JSON.stringify([...state.brushes]);
  const kept = element("parallel").data[0].dimensions.filter(({constraintrange}) => constraintrange?.length);
  const ranges = (range) => (Array.isArray(range[0]) ? range : [range]);
  state.brushes = new Map(kept.map(({name, constraintrange}) => [name, ranges(constraintrange)]));
  return JSON.stringify([...state.brushes]) !== before;
}
