// Fills the page, and draws again what depends on a choice when it changes.

/** Draws the table and the charts anew; the parallel coordinates draw their constraints themselves. */
function update({parallel = true} = {}) {
  const shown = passing(), count = trials.filter(shown).length;
  const marked = state.marked.size ? `, ${state.marked.size} marked` : "";
  element("shown").textContent = `${counted(count)} of ${counted(trials.length)} trials shown${marked}`;
  element("stopped-key").hidden = trials.every((trial) => competes(trial) || !scored(trial));
  element("lost-key").hidden = trials.every((trial) => scored(trial));
  element("lost-word").textContent = lostWord();
  drawTable(shown);
  return Promise.all([drawCurves(shown), drawSensitivity(shown), parallel && drawParallel()]);
}

function fillTexts() {
  document.title = data.title;
  element("title").textContent = data.title;
  for (const [id, pairs] of [["numbers", data.numbers], ["facts", data.facts]]) {
    for (const [label, text] of pairs) {
      const pair = append(element(id), "div");
      append(pair, "dt", label);
      append(pair, "dd", text);
    }
  }
  element("config").textContent = data.config ?? "";
  element("config-section").hidden = data.config === null;
  element("events-section").hidden = !data.events.length;
  const earlier = `The last ${data.events.length}; ${counted(data.earlier_events)} came before.`;
  element("events-note").textContent = data.earlier_events ? earlier : "";
  for (const cells of data.events) {
    const row = append(element("events").tBodies[0], "tr");
    for (const cell of cells) append(row, "td", cell);
  }
}

function chooseMetric(index) {
  state.metric = data.metrics[index];
  state.brushes.delete(METRIC);
  resetColumns();
  return update();
}

function clear() {
  state.marked.clear();
  state.words = [];
  state.brushes.clear();
  element("filter").value = "";
  return update();
}

function listen() {
  element("metric").addEventListener("change", (event) => chooseMetric(event.target.selectedIndex));
  element("filter").addEventListener("input", (event) => {
    state.words = event.target.value.toLowerCase().split(/\s+/).filter(Boolean);
    update({parallel: false});
  });
  element("clear").addEventListener("click", clear);
  element("more").addEventListener("click", () => {
    state.rows += data.drawn.rows;
    drawTable(passing());
  });
  element("parallel").on("plotly_restyle", () => readBrushes() && update({parallel: false}));
  for (const div of [element("curves"), ...element("sensitivity").children]) {
    div.on("plotly_click", ({points: [point]}) => toggle(point.customdata));
  }
}

function start() {
  for (const metric of data.metrics) {
    append(element("metric"), "option", metric.label);
    const bytes = Uint8Array.from(atob(metric.curve), (letter) => letter.charCodeAt(0));
    metric.values = new Float32Array(bytes.buffer);
  }
  fillTexts();
  element("sensitivity-section").hidden = !data.parameters.length;
  for (const _ of data.parameters) append(element("sensitivity"), "div");
  update().then(() => {
    listen();
    document.documentElement.dataset.ready = "yes";
  });
}

start();
