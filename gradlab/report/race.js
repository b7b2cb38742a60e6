"use strict";
// Plays a race: draws the paths of all optimizers up to one step over the picture of their surface.

const element = (id) => document.getElementById(id);
const data = JSON.parse(element("data").textContent);
const canvas = element("race"), pen = canvas.getContext("2d");

const MARGIN = {left: 60, right: 10, top: 10, bottom: 46};
const SECONDS = 12; // for the whole race at speed 1
const TAIL = 0.06; // the part of the race that is drawn thick
const DASHES = {"-": [], "--": [8, 4], ":": [2, 3], "-.": [8, 3, 2, 3]};
const BORDERS = {"-": "solid", "--": "dashed", ":": "dotted", "-.": "dashed"};

const [width, height] = data.size;
const [[left, right], [low, high]] = data.box;
const end = data.steps.length - 1;
const state = {frame: end, playing: false, speed: 1, time: null};

const toX = (x) => MARGIN.left + ((x - left) / (right - left)) * width;
const toY = (y) => MARGIN.top + ((high - y) / (high - low)) * height;

/** A number in four digits. */
const short = (value) => (value === null || value === undefined ? "" : String(Number(value.toPrecision(4))));

/** Where an axis has its ticks: multiples of 1, 2 or 5 times a power of ten, about six of them. */
function ticks(from, to) {
  const raw = (to - from) / 6, power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((size) => size >= raw);
  const count = Math.floor(to / step + 1e-9) - Math.ceil(from / step - 1e-9) + 1;
  return Array.from({length: count}, (_, k) => (Math.ceil(from / step - 1e-9) + k) * step);
}

function drawAxes() {
  pen.strokeStyle = pen.fillStyle = "#1a1a1a";
  pen.lineWidth = 1;
  pen.strokeRect(MARGIN.left, MARGIN.top, width, height);
  pen.font = "13px system-ui, sans-serif";
  pen.textAlign = "center";
  const below = MARGIN.top + height;
  for (const x of ticks(left, right)) {
    pen.fillRect(toX(x), below, 1, 5);
    pen.fillText(short(x), toX(x), below + 19);
  }
  pen.fillText(data.labels[0], MARGIN.left + width / 2, below + 38);
  pen.textAlign = "right";
  for (const y of ticks(low, high)) {
    pen.fillRect(MARGIN.left - 5, toY(y), 5, 1);
    pen.fillText(short(y), MARGIN.left - 9, toY(y) + 4);
  }
  pen.save();
  pen.translate(14, MARGIN.top + height / 2);
  pen.rotate(-Math.PI / 2);
  pen.textAlign = "center";
  pen.fillText(data.labels[1], 0, 0);
  pen.restore();
}

/** A star or a cross, filled as in the other pictures. */
function drawMark([x, y], symbol) {
  pen.font = "24px system-ui, sans-serif";
  pen.textAlign = "center";
  pen.lineWidth = 2.5;
  pen.strokeStyle = "#000";
  pen.fillStyle = "#F0E442";
  pen.strokeText(symbol, toX(x), toY(y) + 9);
  pen.fillText(symbol, toX(x), toY(y) + 9);
}

function drawLine(points, from, to, color, dash, thickness, alpha) {
  pen.globalAlpha = alpha;
  pen.strokeStyle = color;
  pen.lineWidth = thickness;
  pen.setLineDash(DASHES[dash]);
  pen.beginPath();
  for (const [x, y] of points.slice(from, to + 1)) pen.lineTo(toX(x), toY(y));
  pen.stroke();
  pen.setLineDash([]);
  pen.globalAlpha = 1;
}

function drawPath({points, color, dash}, frame) {
  const now = Math.min(frame, points.length - 1), tail = Math.max(0, frame - Math.ceil(TAIL * end));
  drawLine(points, 0, now, color, dash, 1.3, 0.6);
  if (tail < now) drawLine(points, tail, now, color, dash, 3, 1);
  const [x, y] = points[now];
  pen.fillStyle = color;
  pen.strokeStyle = "#fff";
  pen.lineWidth = 1.2;
  pen.fillRect(toX(x) - 5, toY(y) - 5, 10, 10);
  pen.strokeRect(toX(x) - 5, toY(y) - 5, 10, 10);
}

function drawStart([x, y]) {
  pen.beginPath();
  pen.arc(toX(x), toY(y), 5, 0, 2 * Math.PI);
  pen.fillStyle = "#fff";
  pen.strokeStyle = "#000";
  pen.lineWidth = 1.4;
  pen.fill();
  pen.stroke();
}

/** The heights now and who is lowest; a path that has left the numbers has none, and is last. */
function showStanding(frame) {
  const now = data.paths.map(({points, heights}) => (frame < points.length ? heights[frame] : null));
  const better = (a) => now.filter((b) => b !== null && (a === null || b < a)).length;
  now.forEach((value, path) => {
    const [, , loss, place] = element("standing").rows[path].cells;
    loss.textContent = value === null ? "not finite" : short(value);
    place.textContent = better(value) + 1;
  });
}

function draw() {
  const frame = Math.floor(state.frame), ratio = window.devicePixelRatio || 1;
  const [full, tall] = [MARGIN.left + width + MARGIN.right, MARGIN.top + height + MARGIN.bottom];
  canvas.width = full * ratio;
  canvas.height = tall * ratio;
  pen.setTransform(ratio, 0, 0, ratio, 0, 0);
  pen.save();
  pen.beginPath();
  pen.rect(MARGIN.left, MARGIN.top, width, height);
  pen.clip();
  pen.drawImage(element("picture"), MARGIN.left, MARGIN.top, width, height);
  data.minima.forEach((place) => drawMark(place, "★"));
  data.saddles.forEach((place) => drawMark(place, "✖"));
  data.paths.forEach(({points}) => drawStart(points[0]));
  data.paths.forEach((path) => drawPath(path, frame));
  pen.restore();
  drawAxes();
  showStanding(frame);
  element("slider").value = frame;
  element("step").textContent = `${data.steps[frame]} of ${data.steps[end]}`;
  element("play").textContent = state.playing ? "Pause" : "Play";
}

function advance(time) {
  if (!state.playing) return;
  const elapsed = state.time === null ? 0 : (time - state.time) / 1000;
  state.time = time;
  state.frame = Math.min(end, state.frame + (elapsed * state.speed * end) / SECONDS);
  state.playing = state.frame < end;
  draw();
  requestAnimationFrame(advance);
}

function toggle() {
  if (!state.playing && state.frame >= end) state.frame = 0;
  state.playing = !state.playing;
  state.time = null;
  draw();
  if (state.playing) requestAnimationFrame(advance);
}

function fill() {
  document.title = element("title").textContent = data.title;
  element("height").textContent = data.height;
  canvas.setAttribute("aria-label", `Paths of ${data.paths.map(({name}) => name).join(", ")} over ${data.title}`);
  element("slider").max = end;
  for (const {name, color, dash} of data.paths) {
    const row = element("standing").insertRow();
    const swatch = row.insertCell().appendChild(document.createElement("span"));
    swatch.className = "swatch";
    swatch.style.borderTop = `3px ${BORDERS[dash]} ${color}`;
    row.insertCell().textContent = name;
    row.insertCell();
    row.insertCell();
  }
}

fill();
element("play").addEventListener("click", toggle);
element("speed").addEventListener("change", (event) => (state.speed = Number(event.target.value)));
element("slider").addEventListener("input", (event) => {
  state.playing = false;
  state.frame = Number(event.target.value);
  draw();
});
element("picture").decode().then(() => {
  draw();
  document.documentElement.dataset.ready = "yes";
});
