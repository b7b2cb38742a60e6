// The table of trials: a column for each hyperparameter and metric; sorted and filtered from all rows.

/** Heading, value to sort by, and text of each column. */
function columnsOf(metric) {
  const rank = [];
  ranking(metric).forEach((trial, place) => (rank[trial] = place + 1));
  const status = (trial) => [data.trials.status[trial], data.trials.note[trial]].filter(Boolean).join(": ");
  return [
    {label: "#", value: (trial) => rank[trial], text: (trial) => String(rank[trial])},
    {label: "trial", value: (trial) => data.trials.uid[trial], text: (trial) => data.trials.uid[trial]},
    ...data.parameters.map((parameter) => ({
      label: parameter.label,
      value: (trial) => (parameter.shown ?? parameter.values)[trial],
      text: (trial) => valueText(parameter, trial),
    })),
    ...data.metrics.map((each) => ({
      label: each.label,
      value: (trial) => each.mean[trial],
      text: (trial) => scoreText(each, trial),
    })),
    {label: "status", value: status, text: status},
  ];
}

let columns = columnsOf(state.metric);
let rowTexts = new Map();

/** What the filter looks at: the cells of a row without the rank, in lower case. */
function rowText(trial) {
  if (!rowTexts.has(trial)) {
    rowTexts.set(trial, columns.slice(1).map((column) => column.text(trial)).join("  ").toLowerCase());
  }
  return rowTexts.get(trial);
}

function resetColumns() {
  columns = columnsOf(state.metric);
  rowTexts = new Map();
}

/** The trials in the order of the table; what has no value comes last in both directions. */
function sorted(chosen) {
  const {value} = columns[state.sort.column], sign = state.sort.descending ? -1 : 1;
  return chosen.sort((a, b) => {
    const x = value(a), y = value(b);
    if (x === y) return a - b;
    if (x === null || y === null) return x === null ? 1 : -1;
    return x < y ? -sign : sign;
  });
}

function drawTable(shown) {
  drawHeadings();
  const body = element("trials").tBodies[0];
  body.replaceChildren();
  const rows = sorted(trials.filter(shown));
  for (const trial of rows.slice(0, state.rows)) drawRow(body, trial);
  element("rows-note").textContent =
    rows.length > state.rows ? `The first ${state.rows} of ${counted(rows.length)} rows.` : "";
  element("more").hidden = rows.length <= state.rows;
}

function drawHeadings() {
  const head = element("trials").tHead;
  head.replaceChildren();
  const row = append(head, "tr");
  columns.forEach((column, index) => {
    const cell = append(row, "th");
    const button = append(cell, "button", column.label);
    button.type = "button";
    if (index === state.sort.column) {
      cell.ariaSort = state.sort.descending ? "descending" : "ascending";
      append(button, "span", state.sort.descending ? " ▼" : " ▲").ariaHidden = "true";
    }
    button.addEventListener("click", () => {
      state.sort = {column: index, descending: index === state.sort.column && !state.sort.descending};
      drawTable(passing());
      element("trials").tHead.rows[0].cells[index].firstChild.focus();
    });
  });
}

function drawRow(body, trial) {
  const marked = state.marked.has(trial);
  const row = append(body, "tr", "", [marked && "marked", !competes(trial) && "lost"].filter(Boolean).join(" "));
  row.dataset.uid = data.trials.uid[trial];
  row.tabIndex = 0;
  row.ariaSelected = String(marked);
  if (marked) row.style.setProperty("--mark", markStyle(trial).color);
  for (const column of columns) append(row, "td", column.text(trial));
  row.addEventListener("click", () => toggle(trial));
  row.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" && event.key !== " ") return;
    event.preventDefault();
    toggle(trial);
    document.querySelector(`#trials tr[data-uid="${row.dataset.uid}"]`)?.focus();
  });
}
