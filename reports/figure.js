"use strict";
// One drawing as SVG: a frame with axes, and the marks in it. Text is always text, never markup.
const SVG = "http://www.w3.org/2000/svg";
const DASHED = {solid: "", dash: "7 4", dot: "2 3", dashdot: "7 3 2 3", longdash: "12 4", longdashdot: "12 3 2 3"};

function svg(parent, name, attributes, text) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  parent.appendChild(made);
  return made;
}
const colour = (name) => `var(--${name})`;

// The points of a line: its own, or rows of the figure's columns. -> [{x, y, said, low, high}]
function pointsOf(mark, columns) {
  const row = (i) => mark.rows === null ? i : mark.rows[i];
  const of = (given) => typeof given !== "string" ? given : mark.rows === null ? columns.values[given] : mark.rows.map((i) => columns.values[given][i]);
  const says = typeof mark.x === "string" ? columns.said : [], x = of(mark.x), y = of(mark.y);
  return x.map((value, i) => ({
    x: value, y: y[i], place: i, name: mark.name, mark, said: says.map((name) => `${name} ${columns.values[name][row(i)]}`).join(", "),
    spread: mark.spread.length ? mark.spread[i] : null,
  })).filter((point) => point.y !== null && point.x !== null);
}

// Draw a view into `box`, `hidden` names of marks left out; return what a pointer can find there.
function drawFigure(box, view, columns, hidden) {
  const width = Math.max(box.clientWidth, 200), marks = view.marks.filter((mark) => !hidden.has(mark.name));
  const lying = view.y.names && view.marks.some((mark) => mark.kind === "bars");
  const labels = lying ? view.y.names : [];
  const longest = Math.max(0, ...labels.map(textWidth));
  const above = lying && longest > 0.32 * width;                // long names stand above their bars
  const height = view.height + (above ? 16 * labels.length : 0);
  const root = svg(box, "svg", {width, height, viewBox: `0 0 ${width} ${height}`, "aria-hidden": "true"});
  const lines = marks.filter((mark) => mark.kind === "line").map((mark) => pointsOf(mark, columns));
  const everything = view.marks.filter((mark) => mark.kind === "line").map((mark) => pointsOf(mark, columns));
  const heat = view.marks.find((mark) => mark.kind === "heat");
  const frame = {top: 10, bottom: height - 46, right: width - (lying ? 74 : 14)};
  const y = lying || heat ? null : scaleOf(view.y, valuesOf(view, everything, "y"), frame.bottom, frame.top);
  const yTicks = y ? ticks(y.low, y.high, (frame.bottom - frame.top) / 48) : [];
  const room = lying ? (above ? 0 : longest + 10) : heat ? textWidth(String(heat.rows.length)) + 26 : Math.max(...yTicks.map((tick) => textWidth(tickText(view.y, tick)))) + 30;
  frame.left = Math.max(room, 12);
  const found = {root, frame, view, targets: [], width, height};
  if (heat) return drawHeat(found, heat);
  const x = scaleOf(view.x, valuesOf(view, everything, "x"), frame.left, frame.right);
  drawAcross(root, x, frame);
  if (lying) {
    const rows = scaleOf(view.y, [], frame.top, frame.bottom);
    drawBars(found, marks, x, rows, true, above);
  } else {
    for (const tick of yTicks) {
      const at = y.at(tick);
      svg(root, "line", {x1: frame.left, x2: frame.right, y1: at, y2: at, class: "grid"});
      svg(root, "text", {x: frame.left - 6, y: at + 4, "text-anchor": "end"}, tickText(view.y, tick));
    }
    upwardsTitle(root, view.y.title, frame);
    if (marks.some((mark) => mark.kind === "bars")) drawBars(found, marks, y, x, false, false);
    drawLines(found, marks.filter((mark) => mark.kind === "line"), lines, x, y);
    if (view.upright) {
      const at = x.at(view.upright[0]), left = at > frame.right - 60;
      svg(root, "line", {x1: at, x2: at, y1: frame.top, y2: frame.bottom, class: "upright"});
      svg(root, "text", {x: at + (left ? -5 : 5), y: frame.bottom - 6, "text-anchor": left ? "end" : "start"}, view.upright[1]);
    }
  }
  found.x = x; found.y = y;
  return found;
}

function valuesOf(view, lines, side) {
  const ends = lines.flat().flatMap((point) => side === "y" && point.spread ? [point.y, ...point.spread] : [point[side]]);
  const sums = {};                                               // bars at one name add up
  for (const mark of view.marks) {
    if (mark.kind === "bars") mark.names.forEach((name, i) => { sums[name] = (sums[name] || 0) + (mark.values[i] || 0); });
  }
  return [...ends, ...Object.values(sums)].filter((value) => typeof value === "number");
}

function upwardsTitle(root, title, frame) {
  const middle = (frame.top + frame.bottom) / 2;
  svg(root, "text", {x: 12, y: middle, transform: `rotate(-90 12 ${middle})`, "text-anchor": "middle", class: "title"}, title);
}

// The axis across: ticks or names, as many as have room.
function drawAcross(root, x, frame) {
  const upright = (at) => svg(root, "line", {x1: at, x2: at, y1: frame.top, y2: frame.bottom, class: "grid"});
  if (x.axis.names) {
    const widest = Math.max(0, ...x.axis.names.map(textWidth)), every = Math.max(1, Math.ceil((widest + 8) / x.part));
    const crowded = every > 1 && !x.axis.names.every((name) => /^\d+$/.test(name));
    x.axis.names.forEach((name, i) => {
      if (!crowded && i % every) return;
      const at = x.at(name), low = crowded && i % 2 ? 15 : 0;
      svg(root, "text", {x: at, y: frame.bottom + 16 + low, "text-anchor": at + textWidth(name) / 2 > frame.right + 14 ? "end" : "middle"}, name);
    });
  } else {
    for (const tick of ticks(x.low, x.high, (frame.right - frame.left) / 80)) {
      upright(x.at(tick));
      svg(root, "text", {x: x.at(tick), y: frame.bottom + 16, "text-anchor": "middle"}, tickText(x.axis, tick));
    }
  }
  svg(root, "line", {x1: frame.left, x2: frame.right, y1: frame.bottom, y2: frame.bottom, class: "axis"});
  svg(root, "text", {x: (frame.left + frame.right) / 2, y: frame.bottom + 40, "text-anchor": "middle", class: "title"}, x.axis.title);
}

function drawLines(found, marks, lines, x, y) {
  marks.forEach((mark, number) => {
    const group = svg(found.root, "g", {class: "mark", "data-mark": mark.name}), points = lines[number];
    const places = points.map((point) => [x.at(point.x), y.at(point.y)]);
    if (mark.draw !== "points") {
      const way = places.map(([px, py], i) => i === 0 ? `M${px.toFixed(1)} ${py.toFixed(1)}` : mark.stairs ? `H${px.toFixed(1)}V${py.toFixed(1)}` : `L${px.toFixed(1)} ${py.toFixed(1)}`);
      svg(group, "path", {d: way.join(""), class: "line", style: `stroke: ${colour(mark.colour)}`, "stroke-dasharray": DASHED[mark.dash]});
    }
    points.forEach((point, i) => {
      const [px, py] = places[i];
      if (point.spread) svg(group, "path", {d: `M${px} ${y.at(point.spread[0])}V${y.at(point.spread[1])}`, class: "spread", style: `stroke: ${colour(mark.colour)}`});
      if (mark.draw !== "line") svg(group, "circle", {cx: px.toFixed(1), cy: py.toFixed(1), r: 3.5, style: `fill: ${colour(mark.colour)}`});
      found.targets.push({x: px, y: py, point});
    });
  });
}

// Bars along `value`, beside the names of `rows`; lying ones have their names and their ends in text.
function drawBars(found, marks, value, rows, lying, above) {
  const {root, view} = found, ends = new Map(), zero = value.at(Math.max(value.low, 0)), shade = 0.72;
  for (const mark of marks.filter((one) => one.kind === "bars")) {
    const group = svg(root, "g", {class: "mark", "data-mark": mark.name});
    mark.names.forEach((name, i) => {
      if (mark.values[i] === null) return;
      const sum = ends.get(name) || 0, from = value.at(Math.max(sum, value.low)), to = value.at(sum + mark.values[i]);
      ends.set(name, sum + mark.values[i]);
      const middle = rows.at(name) + (above ? 8 : 0), thick = above ? Math.max(rows.part - 22, 6) : Math.max(rows.part * shade, 1);
      const fill = colour(typeof mark.colours === "string" ? mark.colours : mark.colours[i]);
      const place = lying ? {x: Math.min(from, to), y: middle - thick / 2, width: Math.abs(to - from), height: thick} : {x: middle - thick / 2, y: Math.min(from, to), width: thick, height: Math.abs(to - from)};
      svg(group, "rect", {...place, style: `fill: ${fill}`});
      found.targets.push({box: place, text: `${mark.name ? mark.name + ", " : ""}${view.x.names ? view.x.title + " " : ""}${name}: ${WRITTEN[(lying ? view.x : view.y).unit](mark.values[i])}`});
    });
  }
  svg(root, "line", lying ? {x1: zero, x2: zero, y1: found.frame.top, y2: found.frame.bottom, class: "axis"} : {x1: found.frame.left, x2: found.frame.right, y1: zero, y2: zero, class: "axis"});
  if (!lying) return;
  for (const name of view.y.names) {
    const middle = rows.at(name);
    svg(root, "text", above ? {x: found.frame.left + 4, y: middle - rows.part / 2 + 12} : {x: found.frame.left - 8, y: middle + 4, "text-anchor": "end"}, name);
    if (ends.has(name)) svg(root, "text", {x: value.at(ends.get(name)) + 6, y: middle + (above ? 12 : 4), class: "value"}, WRITTEN[view.x.unit](ends.get(name)));
  }
}

// A map of cells: a picture with one pixel for each, stretched.
function drawHeat(found, heat) {
  const {root, frame, view} = found, columns = heat.starts.length, rows = heat.rows.length;
  const picture = document.createElement("canvas"), style = getComputedStyle(root);
  picture.width = Math.max(columns, 1); picture.height = Math.max(rows, 1);
  const pen = picture.getContext("2d");
  const paint = (name) => style.getPropertyValue("--" + name).trim();
  const kinds = heat.colours.map(paint), ramp = [0, 1, 2, 3, 4].map((i) => paint("rate" + i));
  heat.rows.forEach((row, r) => {
    for (let c = 0; c < columns; c++) {
      if (row[c] === null) continue;
      pen.fillStyle = kinds.length ? kinds[Number(row[c])] : shadeOf(ramp, row[c]);
      pen.fillRect(c, r, 1, 1);
    }
  });
  const wide = frame.right - frame.left, high = frame.bottom - frame.top;
  svg(root, "image", {x: frame.left, y: frame.top, width: wide, height: high, preserveAspectRatio: "none", href: picture.toDataURL()});
  svg(root, "rect", {x: frame.left, y: frame.top, width: wide, height: high, class: "frame"});
  const place = (count, at) => ticks(0, Math.max(count - 1, 1), at).filter((tick) => Number.isInteger(tick) && tick < count);
  for (const tick of place(rows, high / 40)) svg(root, "text", {x: frame.left - 6, y: frame.top + high * (tick + 0.5) / rows + 4, "text-anchor": "end"}, String(tick));
  const per = columns > 1 ? heat.starts[1] - heat.starts[0] : 1;
  for (const tick of place(columns * per, wide / 70)) svg(root, "text", {x: frame.left + wide * (Math.floor(tick / per) + 0.5) / columns, y: frame.bottom + 16, "text-anchor": "middle"}, tick.toLocaleString("en-US"));
  upwardsTitle(root, view.y.title, frame);
  svg(root, "text", {x: (frame.left + frame.right) / 2, y: frame.bottom + 40, "text-anchor": "middle", class: "title"}, view.x.title);
  found.cell = (c, r) => {
    const value = heat.rows[r][c], said = heat.kinds.length ? heat.kinds[Number(value)] : value === null ? "not used" : WRITTEN.percent(value);
    return `${heat.column} ${heat.starts[c]}, ${heat.row} ${r}: ${said}`;
  };
  found.cells = {columns, rows};
  return found;
}

// Between the shades of the theme, in equal parts.
function shadeOf(ramp, rate) {
  const at = Math.min(Math.max(rate, 0), 1) * (ramp.length - 1), low = Math.min(Math.floor(at), ramp.length - 2);
  const of = (text, i) => parseInt(text.slice(1 + 2 * i, 3 + 2 * i), 16);
  const mixed = [0, 1, 2].map((i) => Math.round(of(ramp[low], i) + (at - low) * (of(ramp[low + 1], i) - of(ramp[low], i))));
  return `rgb(${mixed.join(",")})`;
}
