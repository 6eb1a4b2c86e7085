"use strict";
// From numbers and names to pixels and text.
const WRITTEN = {
  number: (v) => (v === 0 || (Math.abs(v) >= 1e-3 && Math.abs(v) < 1e15)) ? v.toLocaleString("en-US", {maximumSignificantDigits: 4}) : v.toExponential(3),
  percent: (v) => (100 * v).toFixed(1) + " %",
  times: (v) => Number(v.toPrecision(3)) + "x",
};

const measure = document.createElement("canvas").getContext("2d");
function textWidth(text) {
  measure.font = "12px system-ui, sans-serif";
  return measure.measureText(text).width;
}

// Round numbers from low to high, about as many as wanted.
function ticks(low, high, wanted) {
  const rough = (high - low) / Math.max(wanted, 1), power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 2.5, 5, 10].map((one) => one * power).find((one) => one >= rough * 0.999) || 10 * power;
  const found = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9; i++) found.push(Number((i * step).toPrecision(12)));
  return found;
}

// Numbers of ticks need no more digits than tell them apart.
function tickText(axis, value) {
  if (axis.unit === "percent") return Number((100 * value).toPrecision(6)) + " %";
  if (axis.unit === "times") return Number(value.toPrecision(6)) + "x";
  return value !== 0 && (Math.abs(value) < 1e-4 || Math.abs(value) >= 1e7) ? Number(value.toPrecision(3)).toExponential() : value.toLocaleString("en-US", {maximumSignificantDigits: 6});
}

// A scale from an axis: from `begin` to `end` in pixels. Names stand in the middle of equal parts.
function scaleOf(axis, values, begin, end) {
  if (axis.names) {
    const places = new Map(axis.names.map((name, i) => [name, i])), part = (end - begin) / Math.max(axis.names.length, 1);
    return {axis, part: Math.abs(part), at: (name) => begin + part * (places.get(name) + 0.5), begin, end};
  }
  const known = values.filter((value) => value !== null && Number.isFinite(value));
  let low = axis.low === null ? known.reduce((a, b) => Math.min(a, b), Infinity) : axis.low;
  let high = axis.high === null ? known.reduce((a, b) => Math.max(a, b), -Infinity) : axis.high;
  if (!Number.isFinite(low)) low = Number.isFinite(high) ? Math.min(0, high) : 0;
  if (!(high > low)) high = low + (Math.abs(low) || 1);
  if (axis.high === null) high += 0.03 * (high - low);
  return {axis, low, high, begin, end, at: (value) => begin + (end - begin) * (value - low) / (high - low)};
}
