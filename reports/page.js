"use strict";
// Draws all figures, and again when the width, the colours or what is chosen change.
(() => {
  const figures = JSON.parse(document.getElementById("figures").textContent);
  for (const {columns} of Object.values(figures)) {              // words that come again and again stand there once
    for (const [name, column] of Object.entries(columns ? columns.values : {})) {
      if (!Array.isArray(column)) columns.values[name] = column.at.map((word) => column.words[word]);
    }
  }
  const chosen = {}, hidden = {};                                // figure -> number of its view, names not to draw

  // The names of the marks as buttons; of a map the kinds, or the shades.
  function legend(figure, view) {
    const place = document.getElementById(figure + "-legend");
    const heat = view.marks.find((mark) => mark.kind === "heat");
    if (heat) return place.replaceChildren(...(heat.kinds.length ? heat.kinds.map((kind, i) => swatch(kind, heat.colours[i])) : shades()));
    if (!view.legend) return place.replaceChildren();
    const names = new Map();
    for (const mark of view.marks) if (!names.has(mark.name)) names.set(mark.name, mark);
    return place.replaceChildren(...[...names].map(([name, mark]) => {
      const button = document.createElement("button"), off = hidden[figure].has(name);
      button.type = "button";
      button.setAttribute("aria-pressed", String(!off));
      button.title = "Show or hide";
      const sign = svg(button, "svg", {width: 22, height: 10, "aria-hidden": "true"});
      if (mark.kind === "bars") svg(sign, "rect", {x: 5, y: 0, width: 10, height: 10, style: `fill: ${colour([mark.colours].flat()[0])}`});
      else {
        if (mark.draw !== "points") svg(sign, "path", {d: "M0 5H22", class: "line", style: `stroke: ${colour(mark.colour)}`, "stroke-dasharray": DASHED[mark.dash]});
        if (mark.draw !== "line") svg(sign, "circle", {cx: 11, cy: 5, r: 3.5, style: `fill: ${colour(mark.colour)}`});
      }
      button.append(name);
      const light = (on) => { for (const one of document.querySelectorAll(`#${figure}-plot .mark`)) one.classList.toggle("faint", on && one.dataset.mark !== name); };
      button.onclick = () => { hidden[figure][off ? "delete" : "add"](name); draw(figure); place.querySelectorAll("button")[[...names.keys()].indexOf(name)].focus(); };
      button.onpointerenter = () => light(!off);
      button.onpointerleave = () => light(false);
      return button;
    }));
  }

  function swatch(text, name) {
    const made = Object.assign(document.createElement("span"), {className: "swatch"}), sign = document.createElement("i");
    sign.style.background = colour(name);
    made.append(sign, text);
    return made;
  }

  function shades() {
    const bar = Object.assign(document.createElement("i"), {className: "ramp"});
    bar.style.background = `linear-gradient(to right, ${[0, 1, 2, 3, 4].map((i) => colour("rate" + i)).join(", ")})`;
    return ["0 %", bar, "100 % of what was needed was there"];
  }

  function draw(figure) {
    const {views, columns} = figures[figure], view = views[chosen[figure]], box = document.getElementById(figure + "-plot");
    for (const old of box.querySelectorAll(":scope > svg")) old.remove();
    legend(figure, view);
    explain(box, drawFigure(box, view, columns, hidden[figure]));
  }

  const all = () => Object.keys(figures).forEach(draw);
  for (const figure of Object.keys(figures)) { chosen[figure] = 0; hidden[figure] = new Set(); }
  all();
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", all);
  let waiting = 0, width = innerWidth;
  addEventListener("resize", () => { if (innerWidth === width) return; width = innerWidth; clearTimeout(waiting); waiting = setTimeout(all, 100); });
  const closed = () => document.querySelectorAll("details:not([open])");
  let opened = [];
  addEventListener("beforeprint", () => {                        // paper is white, narrow, and shows every number
    opened = [...closed()];
    opened.forEach((one) => { one.open = true; });
    document.documentElement.dataset.print = "";
    all();
  });
  addEventListener("afterprint", () => {
    opened.forEach((one) => { one.open = false; });
    delete document.documentElement.dataset.print;
    all();
  });
  for (const select of document.querySelectorAll("select[data-figure]")) {
    const figure = select.dataset.figure;
    select.addEventListener("change", () => { chosen[figure] = Number(select.value); draw(figure); });
  }
  document.documentElement.dataset.drawn = "";
})();
