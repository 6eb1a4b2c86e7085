"use strict";
(() => {
  const figures = JSON.parse(document.getElementById("figures").textContent);
  const shown = {};                                            // figure -> number of its view
  const touch = matchMedia("(pointer: coarse)").matches;
  const options = {
    displaylogo: false, scrollZoom: false, displayModeBar: touch ? false : "hover",
    modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d", "zoomIn2d", "zoomOut2d"],
  };

  // Colours that begin with @ are the theme's: "@ink" is the style's --ink. Other text may begin with @ as it likes.
  function themed(value, style, key = "") {
    if (Array.isArray(value)) return value.map((part) => themed(part, style, key));
    if (value && typeof value === "object") {
      return Object.fromEntries(Object.entries(value).map(([name, part]) => [name, themed(part, style, name)]));
    }
    if (/^color/.test(key) && typeof value === "string" && value.startsWith("@")) return style.getPropertyValue("--" + value.slice(1)).trim();
    return value;
  }

  function draw(name) {
    const view = figures[name][shown[name] || 0];
    const plot = document.getElementById(name + "-plot");
    const style = getComputedStyle(document.documentElement);
    const ink = style.getPropertyValue("--ink").trim();
    const line = style.getPropertyValue("--line").trim();
    const paper = style.getPropertyValue("--paper").trim();
    const layout = themed(view.layout, style);
    Object.assign(layout, {
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", uirevision: shown[name] || 0,
      font: {color: ink, family: "system-ui, sans-serif", size: 12}, width: plot.clientWidth,
      hoverlabel: {bgcolor: paper, bordercolor: line, font: {color: ink}}, dragmode: touch ? false : "zoom",
    });
    for (const key of Object.keys(layout)) {
      if (/^[xy]axis/.test(key)) layout[key] = {gridcolor: line, linecolor: line, zerolinecolor: line, ...layout[key]};
    }
    Plotly.react(plot, view.data.map((trace) => cells(themed(trace, style))), layout, options);
  }

  // A heat map of kinds, whose z is a number of `kinds`: the tooltip says its name.
  function cells(trace) {
    if (!trace.kinds) return trace;
    const {kinds, rows, ...rest} = trace;
    rest.z = rows.map((row) => Array.from(row, Number));
    rest.customdata = rest.z.map((row) => row.map((kind) => kinds[kind]));
    return rest;
  }

  const all = () => Object.keys(figures).forEach(draw);
  all();
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", all);
  let waiting = 0;
  addEventListener("resize", () => { clearTimeout(waiting); waiting = setTimeout(all, 100); });
  addEventListener("beforeprint", () => { document.documentElement.dataset.print = ""; all(); });
  addEventListener("afterprint", () => { delete document.documentElement.dataset.print; all(); });
  for (const select of document.querySelectorAll("select[data-figure]")) {
    select.addEventListener("change", () => { shown[select.dataset.figure] = Number(select.value); draw(select.dataset.figure); });
  }
  document.documentElement.dataset.drawn = "";
})();
