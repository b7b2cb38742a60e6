// Learning curves: means over the seeds, each up to where a run of the trial diverged.

/** The curve of a trial up to where it ends. */
function curveOf(metric, trial) {
  const points = metric.step.length, first = keptAt.get(trial) * points;
  const values = metric.values.subarray(first, first + points);
  const end = values.findIndex((value) => !Number.isFinite(value));
  const count = end < 0 ? points : end;
  return {x: metric.step.slice(0, count), y: Array.from(values.subarray(0, count))};
}

/** The trials whose curves are drawn: the marked ones, then the best that are shown. */
function drawnCurves(shown) {
  const candidates = ranking(state.metric).filter((trial) => keptAt.has(trial) && shown(trial));
  const marked = candidates.filter((trial) => state.marked.has(trial));
  const others = candidates.filter((trial) => !state.marked.has(trial));
  return [...marked, ...others].slice(0, data.drawn.curves);
}

function curveTrace(trial, share) {
  const {x, y} = curveOf(state.metric, trial), marked = state.marked.has(trial);
  const ended = data.trials.status[trial] === "diverged" && y.length;
  const {context, diverged} = data.colors;
  const color = competes(trial) ? shareColor(share[trial]) : scored(trial) ? context : diverged;
  const name = `${data.trials.uid[trial].slice(0, 6)}  ${scoreText(state.metric, trial) || data.trials.status[trial]}`;
  return {
    x, y, name: plain(name), meta: data.trials.uid[trial], customdata: x.map(() => trial), showlegend: marked,
    mode: ended || y.length === 1 ? "lines+markers" : "lines",
    marker: {symbol: ended ? "x" : "circle", size: x.map((_, i) => (i === x.length - 1 ? 8 : 0))},
    line: marked ? {...markStyle(trial), width: 3} : {color: state.marked.size ? context : color, width: 1},
    opacity: marked ? 1 : state.marked.size ? 0.5 : 0.8,
    hovertemplate: "step %{x}: %{y:.4g}<extra>%{fullData.name}</extra>",
  };
}

function drawCurves(shown) {
  const share = shares(state.metric), drawn = drawnCurves(shown), {metric} = state;
  const traces = drawn.map((trial) => curveTrace(trial, share)).reverse(); // the best on top
  const range = heights(traces, drawn.length), first = metric.step[0], last = metric.step.at(-1);
  const room = 0.015 * (last - first || 1);
  const layout = {
    height: 440, margin: {l: 60, r: 20, t: 34, b: 50}, font: FONT, hovermode: "closest", hoverlabel: {namelength: -1},
    xaxis: {title: {text: "step"}, gridcolor: "#e6e6e6", zeroline: false, range: [first - room, last + room]},
    yaxis: {
      title: {text: plain(metric.label)}, gridcolor: "#e6e6e6", zeroline: false, exponentformat: "power",
      ...scaleOf(metric.log_curve, range), range,
    },
    legend: {orientation: "h", y: -0.18, traceorder: "reversed"},
  };
  element("curves-note").textContent = curvesNote(drawn.length, trials.filter(shown).length);
  return Plotly.react("curves", traces, layout, BUTTONS);
}

function curvesNote(drawn, shown) {
  const some = `${drawn} of ${counted(shown)} curves: the marked first, then the best, at most ${data.drawn.curves};`;
  const means = data.seeds > 1 ? `means over ${data.seeds} seeds, ` : "";
  const kept = `The page holds the curves of the ${counted(data.kept.length)} best trials.`;
  return [
    drawn < shown ? some : `${drawn} curves:`,
    `${means}${state.metric.step.length} points each; × where a run diverged.`,
    data.kept.length < trials.length ? kept : "",
  ].join(" ").trim();
}

/** Room for the best and the marked curves and for the starts of the others, on the axis as plotly counts it. */
function heights(traces, count) {
  const whole = traces.filter((trace, index) => trace.showlegend || index >= count - 5);
  const log = state.metric.log_curve;
  const values = [...traces.map((trace) => trace.y[0]), ...whole.flatMap((trace) => trace.y)]
    .filter((value) => Number.isFinite(value) && (!log || value > 0)).map((value) => (log ? Math.log10(value) : value));
  if (!values.length) return null;
  const low = Math.min(...values), high = Math.max(...values), margin = 0.06 * (high - low || Math.abs(high) || 1);
  return [low - margin, high + margin];
}
