// The final metric against each hyperparameter that varies.

function points(parameter, chosen, style) {
  const {metric} = state;
  return {
    type: "scatter", mode: "markers", showlegend: false, customdata: chosen,
    x: chosen.map((trial) => parameter.values[trial]),
    y: chosen.map((trial) => height(metric, trial)),
    text: chosen.map((trial) => hoverLines(parameter, trial).map(plain).join("<br>")),
    hovertemplate: "%{text}<extra></extra>",
    ...style,
  };
}

function hoverLines(parameter, trial) {
  const {uid, status} = data.trials, score = scoreText(state.metric, trial);
  const value = `${parameter.label} ${valueText(parameter, trial)}`;
  return [uid[trial], value, score ? `${state.metric.label} ${score}` : status[trial]];
}

function panelTraces(parameter, drawn, shown) {
  const {context, diverged, palette} = data.colors, known = drawn.filter((trial) => scored(trial));
  const unmarked = known.filter((trial) => shown(trial) && !state.marked.has(trial));
  const symbols = (chosen) => chosen.map((trial) => (competes(trial) ? "circle" : "circle-open"));
  const lost = drawn.filter((trial) => !scored(trial) && shown(trial));
  const marks = known.filter((trial) => shown(trial) && state.marked.has(trial));
  const crosses = points(parameter, lost, {yaxis: "y2", cliponaxis: false});
  const lostColor = lost.map((trial) => (state.marked.has(trial) ? markStyle(trial).color : diverged));
  return [
    points(parameter, known.filter((trial) => !shown(trial)), {marker: {size: 5, color: context, opacity: 0.35}}),
    points(parameter, unmarked, {
      marker: {size: 7, color: state.marked.size ? context : palette[0], opacity: 0.6, symbol: symbols(unmarked)},
    }),
    {
      ...crosses, y: lost.map(() => 1), marker: {symbol: "x-thin", size: 8, line: {width: 1.5, color: lostColor}},
    },
    points(parameter, marks, {
      marker: {size: 12, color: marks.map((trial) => markStyle(trial).color), symbol: symbols(marks)},
    }),
  ];
}

function drawPanel(div, parameter, drawn, shown) {
  const {metric} = state, ticks = parameter.ticks, heights = trials.map((trial) => height(metric, trial));
  const {from, to} = placesOf(heights, metric.log);
  const axis = {gridcolor: "#e6e6e6", zeroline: false, exponentformat: "power"};
  const ticktext = ticks.map((tick) => plain(clipped(tick)));
  const categories = {tickvals: ticks.map((_, index) => index), ticktext, range: [-0.5, ticks.length - 0.5]};
  const layout = {
    height: 300, margin: {l: 60, r: 15, t: 34, b: 50}, font: FONT, hovermode: "closest",
    xaxis: {
      ...axis, title: {text: plain(parameter.axis)}, type: parameter.log ? "log" : "linear",
      ...(ticks.length && categories),
    },
    yaxis: {...axis, title: {text: `final ${plain(metric.label)}`}, ...scaleOf(metric.log, [from, to])},
    yaxis2: {overlaying: "y", range: [0, 1], visible: false, fixedrange: true},
  };
  return Plotly.react(div, panelTraces(parameter, drawn, shown), layout, BUTTONS);
}

function drawSensitivity(shown) {
  const drawn = sample();
  element("sensitivity-note").textContent = sampleNote(drawn) + symbolsNote();
  return Promise.all(data.parameters.map((parameter, index) =>
    drawPanel(element("sensitivity").children[index], parameter, drawn, shown)));
}

/** Says what the symbols mean that are drawn. */
function symbolsNote() {
  const {metric} = state;
  return [
    trials.some((trial) => !scored(trial)) && `Crosses on the upper edge: ${lostWord()}.`,
    data.trials.status.includes("stopped") && "Open circles: stopped, with the value where they were.",
    trials.some((trial) => beyondCeiling(metric, trial)) && `What is beyond ${short(metric.ceiling)} is drawn there.`,
  ].filter(Boolean).join(" ");
}
