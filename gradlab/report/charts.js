// What the charts have in common: colours, texts for plotly, axes.

// cividis up to where white paper swallows it, from the best to the worst
const SCALE = ["#00224e", "#123570", "#3b496c", "#575d6d", "#707173", "#8a8678", "#a59c74", "#c3b369", "#d6c35f"];
const FONT = {family: "system-ui, sans-serif", size: 12, color: "#1a1a1a"};
const BUTTONS = {modeBarButtons: [["toImage", "resetScale2d"]], displaylogo: false, responsive: true};

/** A text for plotly, which reads tags in most of what it shows. */
const plain = (text) => text.replace(/&/g, "&amp;").replace(/</g, "&lt;");

/** Ticks from low to high, both included: powers of ten for logarithms, else round numbers; pairs of place and text. */
function ticksOf(low, high, log) {
  const text = (place) => short(log ? 10 ** place : place);
  const apart = (high - low) / 12;
  const inner = (log ? powersOfTen(low, high) : roundNumbers(low, high))
    .filter((place) => place - low > apart && high - place > apart);
  const places = high > low ? [low, ...inner, high] : [low];
  return places.map((place) => [place, text(place)]);
}

function powersOfTen(low, high) {
  const first = Math.ceil(low), every = Math.ceil((high - low) / 8), digits = high - low < 2 ? [1, 2, 5] : [1];
  const places = [];
  for (let k = first - 1; k <= high; k += every) places.push(...digits.map((digit) => k + Math.log10(digit)));
  return places;
}

function roundNumbers(low, high) {
  const power = 10 ** Math.floor(Math.log10((high - low) / 5 || 1));
  const step = power * [1, 2, 5, 10].find((digit) => digit * power >= (high - low) / 5);
  const places = [];
  for (let k = Math.ceil(low / step); k * step <= high; k += 1) places.push(k * step);
  return places;
}

/** Places of numbers along an axis of the parallel coordinates; null is beyond the end of the worst. */
function placesOf(values, log, mode = "min") {
  const places = values.map((value) => (value === null || !log ? value : Math.log10(value)));
  const known = places.filter((place) => place !== null);
  const from = known.length ? known.reduce((a, b) => Math.min(a, b)) : 0;
  const to = known.length ? known.reduce((a, b) => Math.max(a, b)) : 0;
  const span = to - from || Math.abs(to) || 1;
  const beyond = mode === "min" ? to + 0.12 * span : from - 0.12 * span;
  return {from, to, beyond, places: places.map((place) => place ?? beyond), lost: known.length < places.length};
}

/** 0 for the best trial to 1 for the worst by rank, so that a loss of a million takes no colours from the others. */
function shares(metric) {
  const ranked = ranking(metric).filter((trial) => competes(trial, metric)), share = [];
  ranked.forEach((trial, rank) => (share[trial] = rank / Math.max(ranked.length - 1, 1)));
  return share;
}

const shareColor = (share) => SCALE[Math.round(share * (SCALE.length - 1))];

/** A linear or a logarithmic axis over a range; with small digits at 2 and 5 where it spans few powers of ten. */
function scaleOf(log, range) {
  if (!log) return {type: "linear"};
  return range && range[1] - range[0] < 4 ? {type: "log", dtick: "D2"} : {type: "log"};
}

/** Says which trials a chart shows, if not all. */
function sampleNote(drawn) {
  if (drawn.length === trials.length) return "";
  return `${counted(drawn.length)} of ${counted(trials.length)} trials: the best and an even share of the others. `;
}
