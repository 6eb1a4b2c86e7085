"use strict";
// What a pointer, or the arrow keys, find in a drawing: a box with words beside it, which a screen reader says too.
function explain(box, found) {
  const tip = box.querySelector(".tip");
  let stop = -1;
  const hide = () => { tip.hidden = true; found.root.querySelectorAll(".here").forEach((one) => one.remove()); };

  function show(at, texts, guide) {
    hide();
    if (guide) svg(found.root, "line", {x1: at[0], x2: at[0], y1: found.frame.top, y2: found.frame.bottom, class: "here upright"});
    else svg(found.root, "circle", {cx: at[0], cy: at[1], r: 6, class: "here"});
    tip.replaceChildren(...texts.map((text) => Object.assign(document.createElement("div"), {textContent: text})));
    tip.hidden = false;
    const left = at[0] > found.width / 2 ? at[0] - tip.offsetWidth - 12 : at[0] + 12;
    tip.style.left = `${Math.min(Math.max(left, 0), Math.max(found.width - tip.offsetWidth, 0))}px`;
    tip.style.top = `${Math.min(Math.max(at[1] - tip.offsetHeight / 2, 0), Math.max(found.height - tip.offsetHeight, 0))}px`;
  }

  const points = found.targets.filter((one) => one.point), bars = found.targets.filter((one) => one.box);
  const {view} = found;
  const value = (axis, one) => axis.names ? one : WRITTEN[axis.unit](one);
  function tell(target, y) {
    if (!view.all_at_once) {
      const {point} = target, over = point.said || value(view.x, point.x);
      show([target.x, target.y], [`${point.name}: ${value(view.y, point.y)}`, over]);
      return;
    }
    const same = points.filter((one) => Math.abs(one.x - target.x) < 0.01);
    const said = view.said.length ? ` (${view.said[target.point.place]})` : "";
    show([target.x, y], [value(view.x, target.point.x) + said, ...same.map((one) => `${one.point.name}: ${value(view.y, one.point.y)}`)], true);
  }

  function pointAt(px, py) {
    if (found.cells) {
      const {frame, cells} = found;
      const c = Math.floor((px - frame.left) / (frame.right - frame.left) * cells.columns), r = Math.floor((py - frame.top) / (frame.bottom - frame.top) * cells.rows);
      return c < 0 || r < 0 || c >= cells.columns || r >= cells.rows ? hide() : show([px, py], [found.cell(c, r)]);
    }
    const bar = bars.find(({box: b}) => px >= b.x - 1 && px <= b.x + b.width + 1 && py >= b.y && py <= b.y + b.height);
    if (bar) return show([px, py], [bar.text]);
    const far = (one) => view.all_at_once ? Math.abs(one.x - px) : Math.hypot(one.x - px, one.y - py);
    const near = points.reduce((best, one) => best === null || far(one) < far(best) ? one : best, null);
    return near && (view.all_at_once || far(near) < 40) ? tell(near, py) : hide();
  }

  const move = (event) => { const r = box.getBoundingClientRect(); pointAt(event.clientX - r.left, event.clientY - r.top); };
  box.onpointermove = move;
  box.onpointerdown = move;
  box.onpointerleave = hide;
  box.onblur = hide;
  const stops = [...points].sort((a, b) => a.x - b.x || a.y - b.y).filter((one, i, all) => !view.all_at_once || i === 0 || one.x - all[i - 1].x > 0.01);
  box.onkeydown = (event) => {
    const step = {ArrowRight: 1, ArrowLeft: -1}[event.key];
    if (event.key === "Escape") return hide();
    if (!step) return;
    event.preventDefault();
    const all = stops.length ? stops : bars;
    if (!all.length && !found.cells) return;
    stop = Math.min(Math.max(stop + step, 0), (all.length || found.cells.columns) - 1);
    if (stops.length) tell(stops[stop], (found.frame.top + found.frame.bottom) / 2);
    else if (bars.length) show([bars[stop].box.x + bars[stop].box.width, bars[stop].box.y + bars[stop].box.height / 2], [bars[stop].text]);
    else pointAt(found.frame.left + (stop + 0.5) / found.cells.columns * (found.frame.right - found.frame.left), found.frame.top + 1);
  };
}
