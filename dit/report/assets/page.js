"use strict";
// Draws the curves, plays the videos, and, where the page comes from a server, keeps it up to date.
const root = document.documentElement;
const live = root.dataset.mode === "live";
const $ = (id) => document.getElementById(id);
let data = JSON.parse($("data").textContent);

// ---------------------------------------------------------------------------------------------- light and dark
const remembered = (() => { try { return localStorage.getItem("theme"); } catch { return null; } })();
root.dataset.theme = remembered ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
$("theme").addEventListener("click", () => {
  root.dataset.theme = root.dataset.theme === "dark" ? "light" : "dark";
  try { localStorage.setItem("theme", root.dataset.theme); } catch { /* a page from a file may not keep anything */ }
});

// ---------------------------------------------------------------------------------------------- numbers
const AXES = {
  step: { title: "step" },
  "seen/tokens": { title: "tokens" },
  "seen/flops": { title: "FLOP" },
  "speed/seconds": { title: "hours", scale: 1 / 3600 },
};
const PREFIXES = [[1e18, "E"], [1e15, "P"], [1e12, "T"], [1e9, "G"], [1e6, "M"], [1e3, "k"]];

function short(value) {
  if (value === 0) return "0";
  const size = Math.abs(value);
  for (const [unit, prefix] of PREFIXES) if (size >= unit) return `${+(value / unit).toPrecision(3)}${prefix}`;
  return size >= 1e-3 ? String(+value.toPrecision(4)) : value.toExponential(2).replace(/\.?0+e/, "e");
}

// Round numbers between two ends: about so many of them.
function ticks(low, high, about, log) {
  if (log) {
    const made = [];
    const decades = Math.log10(high / low);
    const steps = decades > 2 ? [1] : decades > 1 ? [1, 3] : decades > 0.4 ? [1, 2, 5] : [];
    if (steps.length) {
      const every = Math.max(1, Math.ceil(decades / about));
      for (let power = Math.floor(Math.log10(low)); power <= Math.log10(high); power++) {
        if (((power % every) + every) % every) continue;
        for (const step of steps) made.push(step * 10 ** power);
      }
      const inside = made.filter((value) => value >= low * (1 - 1e-9) && value <= high * (1 + 1e-9));
      if (inside.length > 1) return inside;
    }
  }
  const raw = (high - low) / about || 1;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 2.5, 5, 10].map((factor) => factor * power).find((each) => each >= raw);
  const made = [];
  for (let k = Math.ceil(low / step - 1e-9); k * step <= high + 1e-9 * step; k++) made.push(k * step);
  return made;
}

// Where a line's steps lie along the chosen axis; null where its runs do not know it.
function places(line, axis) {
  if (axis === "step") return line.step;
  const scale = AXES[axis].scale ?? 1;
  const owners = line.run === null ? data.members[line.group] : [line.run];
  const tables = owners.map((run) => data.along[run][axis]);
  if (tables.some((table) => !table)) return null;
  return line.step.map((step) => scale * tables.reduce((sum, table) => sum + between(step, table), 0) / tables.length);
}

function between(step, [steps, values]) {
  let low = 0;
  let high = steps.length - 1;
  if (step <= steps[0]) return values[0];
  if (step >= steps[high]) return values[high];
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (steps[middle] <= step) low = middle; else high = middle;
  }
  return values[low] + (values[high] - values[low]) * (step - steps[low]) / (steps[high] - steps[low]);
}

// ---------------------------------------------------------------------------------------------- curves
const view = { axis: "step", scale: "auto", seeds: true, hidden: new Set(), open: new Set(data.open), lit: null };
const svg = (name, attributes, parent) => {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  parent?.append(made);
  return made;
};
const element = (name, attributes, parent) => {
  const made = Object.assign(document.createElement(name), attributes);
  parent?.append(made);
  return made;
};
const colour = (group) => `c${group % 8}` + (group >= 8 ? ` dashed${1 + (Math.floor(group / 8) - 1) % 2}` : "");
const HEIGHT = 230;
const EDGE = { left: 54, right: 10, top: 10, bottom: 26 };

function drawn(curve) {
  const several = new Set(curve.lines.filter((line) => line.run === null).map((line) => line.group));
  return curve.lines
    .filter((line) => !view.hidden.has(line.group))
    .filter((line) => line.run === null || view.seeds || !several.has(line.group))
    .map((line) => ({ ...line, x: places(line, view.axis), kind: line.run === null ? "mean" : several.has(line.group) ? "seed" : "run" }));
}

function draw(card, curve) {
  card.querySelector("svg")?.remove();
  card.querySelector(".tip")?.remove();
  card.querySelector("p")?.remove();
  const all = drawn(curve);
  const lines = all.filter((line) => line.x);
  const width = Math.max(240, card.clientWidth - 20);
  const picture = svg("svg", { viewBox: `0 0 ${width} ${HEIGHT}`, role: "img" }, card);
  const said = [];
  if (curve.averaged > 1) said.push(`each point is the mean of ${curve.averaged} rows`);
  if (lines.length < all.length) said.push(`some runs do not know their ${AXES[view.axis].title}`);
  if (said.length) element("p", { className: "faint", textContent: said.join("; ") }, card);
  const xs = lines.flatMap((line) => line.x);
  let ys = lines.flatMap((line) => line.kind === "mean" ? [...line.value, ...line.low, ...line.high] : line.value);
  picture.setAttribute("aria-label", `${curve.metric} along ${AXES[view.axis].title}: ` + (lines.length ? `from ${short(Math.min(...ys.slice(0, 1e5)))} to ${short(Math.max(...ys.slice(0, 1e5)))}` : "nothing to show"));
  if (!xs.length) {
    svg("text", { x: width / 2, y: HEIGHT / 2, "text-anchor": "middle" }, picture).textContent = "nothing to show";
    return;
  }
  const extent = (values) => values.reduce(([low, high], value) => [Math.min(low, value), Math.max(high, value)], [Infinity, -Infinity]);
  const values = lines.flatMap((line) => line.value);
  const [least, most] = extent(values);
  const log = least > 0 && (view.scale === "log" || (view.scale === "auto" && most / least > 20));
  if (log) ys = ys.filter((value) => value > 0);
  let [low, high] = extent(ys);
  // A wide interval, as of two seeds, is cut off rather than let it flatten the lines.
  const room = log ? (most / least) ** 0.5 : (most - least) * 0.5 || Math.abs(most) * 0.1;
  low = Math.max(low, log ? least / Math.max(room, 1.5) : least - room);
  high = Math.min(high, log ? most * Math.max(room, 1.5) : most + room);
  if (low === high) [low, high] = log ? [low / 1.5, high * 1.5] : [low - (Math.abs(low) || 1) * 0.1, high + (Math.abs(high) || 1) * 0.1];
  const pad = log ? (high / low) ** 0.04 : (high - low) * 0.04;
  [low, high] = log ? [low / pad, high * pad] : [low - pad, high + pad];
  let [from, to] = extent(xs);
  if (from === to) [from, to] = [from - 1, to + 1];
  const toX = (value) => EDGE.left + (value - from) / (to - from) * (width - EDGE.left - EDGE.right);
  const inRange = (value) => Math.min(Math.max(value, low), high);
  const flat = (value) => log ? Math.log(inRange(value)) : inRange(value);
  const toY = (value) => HEIGHT - EDGE.bottom - (flat(value) - flat(low)) / (flat(high) - flat(low)) * (HEIGHT - EDGE.top - EDGE.bottom);

  for (const value of ticks(low, high, 5, log)) {
    svg("line", { class: "grid", x1: EDGE.left, x2: width - EDGE.right, y1: toY(value), y2: toY(value) }, picture);
    svg("text", { x: EDGE.left - 6, y: toY(value) + 4, "text-anchor": "end" }, picture).textContent = short(value);
  }
  const marks = ticks(from, to, Math.max(2, Math.floor(width / 90)), false);
  for (const value of marks) {
    const anchor = toX(value) > width - 30 ? "end" : "middle";
    svg("text", { x: Math.min(toX(value), width - 2), y: HEIGHT - 9, "text-anchor": anchor }, picture).textContent = short(value);
  }
  const inside = svg("g", {}, picture);
  const path = (x, y) => x.map((value, i) => `${i ? "L" : "M"}${toX(value).toFixed(1)} ${toY(y[i]).toFixed(1)}`).join("");
  for (const line of lines.filter((each) => each.kind === "mean")) {
    const back = path([...line.x].reverse(), [...line.low].reverse()).replace("M", "L");
    svg("path", { class: `band ${colour(line.group).split(" ")[0]}`, d: `${path(line.x, line.high)}${back}Z`, "data-group": line.group }, inside);
  }
  for (const line of [...lines].sort((a, b) => (a.kind === "mean") - (b.kind === "mean"))) {
    const attributes = { class: `${line.kind} ${colour(line.group)}`, "data-group": line.group };
    if (line.x.length > 1) svg("path", { ...attributes, d: path(line.x, line.value) }, inside);
    if (line.x.length <= 12) line.x.forEach((x, i) => svg("circle", { ...attributes, class: colour(line.group), cx: toX(x), cy: toY(line.value[i]), r: line.kind === "seed" ? 1.6 : 2.6, ...(line.kind === "seed" ? { opacity: 0.5 } : {}) }, inside));
  }
  light(picture);
  hover(card, picture, lines, { toX, toY, from, to, width });
}

function light(picture) {
  for (const each of picture.querySelectorAll("[data-group]")) {
    each.classList.toggle("dim", view.lit !== null && Number(each.dataset.group) !== view.lit);
  }
}

function hover(card, picture, lines, { toX, toY, from, to, width }) {
  const tip = element("div", { className: "tip", hidden: true }, card);
  const cursor = svg("line", { class: "cursor", y1: EDGE.top, y2: HEIGHT - EDGE.bottom, visibility: "hidden" }, picture);
  const dots = svg("g", {}, picture);
  const leave = () => { tip.hidden = true; cursor.setAttribute("visibility", "hidden"); dots.replaceChildren(); };
  picture.addEventListener("pointerleave", leave);
  picture.addEventListener("pointermove", (event) => {
    const box = picture.getBoundingClientRect();
    const at = from + ((event.clientX - box.left) / box.width * width - EDGE.left) / (width - EDGE.left - EDGE.right) * (to - from);
    const near = lines.filter((line) => line.kind !== "seed").map((line) => ({ line, i: nearest(line.x, at) }))
      .filter(({ line, i }) => Math.abs(line.x[i] - at) <= 0.08 * (to - from));
    if (!near.length) return leave();
    const best = near.reduce((a, b) => Math.abs(a.line.x[a.i] - at) <= Math.abs(b.line.x[b.i] - at) ? a : b);
    const x = best.line.x[best.i];
    cursor.setAttribute("x1", toX(x));
    cursor.setAttribute("x2", toX(x));
    cursor.setAttribute("visibility", "visible");
    dots.replaceChildren();
    tip.replaceChildren(element("p", { className: "faint", textContent: `${AXES[view.axis].title} ${short(x)}` }));
    for (const { line, i } of near) {
      svg("circle", { class: colour(line.group), cx: toX(line.x[i]), cy: toY(line.value[i]), r: 3.5 }, dots);
      const row = element("p", {}, tip);
      element("i", { className: `mark ${colour(line.group).split(" ")[0]}` }, row);
      const spread = line.kind === "mean" ? ` [${short(line.low[i])}, ${short(line.high[i])}], ${line.count} seeds` : "";
      const name = line.kind === "mean" ? data.groups[line.group] : data.runs[line.run];
      row.append(`${name}: ${short(line.value[i])}${spread}`);
    }
    tip.hidden = false;
    const left = toX(x) / width * box.width;
    tip.style.top = "2.2rem";
    tip.style.left = left > box.width / 2 ? "auto" : `${left + 24}px`;
    tip.style.right = left > box.width / 2 ? `${box.width - left + 24}px` : "auto";
  });
}

function nearest(values, wanted) {
  let best = 0;
  for (let i = 1; i < values.length; i++) if (Math.abs(values[i] - wanted) < Math.abs(values[best] - wanted)) best = i;
  return best;
}

const cards = new Map(); // metric -> card
const resized = new ResizeObserver((entries) => {
  for (const { target } of entries) {
    const curve = data.curves.find((each) => each.metric === target.dataset.metric);
    if (curve && target.dataset.width !== String(target.clientWidth)) {
      target.dataset.width = target.clientWidth;
      draw(target, curve);
    }
  }
});

function curves() {
  for (const [metric, card] of cards) {
    if (!view.open.has(metric) || !data.curves.some((curve) => curve.metric === metric)) {
      resized.unobserve(card);
      card.remove();
      cards.delete(metric);
    }
  }
  for (const curve of data.curves.filter((each) => view.open.has(each.metric))) {
    let card = cards.get(curve.metric);
    if (!card) {
      card = element("div", { className: "chart" }, $("charts"));
      card.dataset.metric = curve.metric;
      const head = element("h3", {}, card);
      element("span", { textContent: curve.metric }, head);
      const close = element("button", { type: "button", textContent: "×", title: "Put this curve away" }, head);
      close.addEventListener("click", () => { view.open.delete(curve.metric); curves(); picker(); });
      cards.set(curve.metric, card);
      resized.observe(card);
    }
    draw(card, curve);
  }
  $("curves").hidden = !data.curves.length;
}

function legend() {
  $("legend").replaceChildren();
  if (data.groups.length < 2) view.hidden.clear();
  data.groups.forEach((label, group) => {
    const button = element("button", { type: "button", title: "Show or hide" }, $("legend"));
    button.setAttribute("aria-pressed", String(!view.hidden.has(group)));
    element("i", { className: `mark ${colour(group).split(" ")[0]}` }, button);
    const seeds = data.members[group].length;
    button.append(label + (seeds > 1 ? ` (${seeds} seeds)` : ""));
    button.addEventListener("click", () => {
      if (!view.hidden.delete(group)) view.hidden.add(group);
      legend();
      curves();
    });
    const lit = (value) => () => { view.lit = value; document.querySelectorAll(".chart svg").forEach(light); };
    button.addEventListener("pointerenter", lit(group));
    button.addEventListener("pointerleave", lit(null));
  });
  $("seeds-label").hidden = data.members.every((members) => members.length < 2);
  const axes = ["step", ...data.axes];
  if ($("along").options.length !== axes.length) {
    $("along").replaceChildren(...axes.map((axis) => new Option(AXES[axis].title, axis)));
    $("along").value = axes.includes(view.axis) ? view.axis : (view.axis = "step");
  }
}

function picker() {
  $("picker").replaceChildren();
  for (const { metric } of data.curves) {
    const label = element("label", {}, $("picker"));
    const box = element("input", { type: "checkbox", checked: view.open.has(metric) }, label);
    label.append(` ${metric}`);
    box.addEventListener("change", () => { view.open[box.checked ? "add" : "delete"](metric); curves(); });
  }
}

$("along").addEventListener("change", (event) => { view.axis = event.target.value; curves(); });
$("scale").addEventListener("change", (event) => { view.scale = event.target.value; curves(); });
$("seeds").addEventListener("change", (event) => { view.seeds = event.target.checked; curves(); });

// ---------------------------------------------------------------------------------------------- videos
const clips = JSON.parse($("clips").textContent); // name -> base64; empty where a server has them
const addresses = new Map();
let playing = !matchMedia("(prefers-reduced-motion: reduce)").matches;

function address(name) {
  if (!addresses.has(name)) {
    if (live) addresses.set(name, `clip/${name}`);
    else if (clips[name]) {
      const bytes = Uint8Array.from(atob(clips[name]), (letter) => letter.charCodeAt(0));
      addresses.set(name, URL.createObjectURL(new Blob([bytes], { type: $("clips").dataset.type })));
      delete clips[name];
    }
  }
  return addresses.get(name);
}

const all = () => [...document.querySelectorAll("video[data-clip]")];
const loaded = () => all().filter((video) => video.src);
// A video is only loaded, and only plays, while it can be seen.
const seen = new IntersectionObserver((entries) => {
  for (const { target, isIntersecting } of entries) {
    target.dataset.seen = isIntersecting ? "1" : "";
    if (isIntersecting) show(target); else target.pause();
  }
}, { rootMargin: "200px" });

function show(video) {
  if (!video.src) {
    const source = address(video.dataset.clip);
    if (!source) {
      video.classList.add("broken");
      video.title = "There was no room for this video, or it cannot be read";
      return;
    }
    video.src = source;
  }
  video.playbackRate = Number($("speed").value);
  if (playing) video.play().catch(() => {}); // a pause that comes in between
}

function videos() {
  for (const video of all()) {
    video.addEventListener("click", () => video.paused ? video.play().catch(() => {}) : video.pause());
    video.addEventListener("error", () => { video.classList.add("broken"); video.title = "This browser cannot play the video"; });
    seen.observe(video);
  }
  size();
  $("videos").hidden = !all().length;
  $("wrong-label").hidden = !document.querySelector("#videos .wrong");
}

function size() {
  document.querySelectorAll(".wall").forEach((wall) => wall.style.setProperty("--size", `${$("size").value}px`));
}

function pause(stop) {
  playing = !stop;
  $("play").textContent = stop ? "Play" : "Pause";
  for (const video of loaded()) {
    if (stop) video.pause(); else if (video.dataset.seen) show(video);
  }
}

function frames(count) {
  pause(true);
  for (const video of loaded().filter((each) => each.duration)) {
    const frame = 1 / Number(video.dataset.fps);
    // The middle of a frame, so that rounding shows no neighbour.
    const next = (Math.floor(video.currentTime / frame + 1e-3) + count + 0.5) * frame;
    video.currentTime = ((next % video.duration) + video.duration) % video.duration;
  }
}

$("play").addEventListener("click", () => pause(playing));
$("restart").addEventListener("click", () => { for (const video of loaded()) video.currentTime = 0; });
$("back").addEventListener("click", () => frames(-1));
$("forward").addEventListener("click", () => frames(1));
$("speed").addEventListener("change", () => { for (const video of loaded()) video.playbackRate = Number($("speed").value); });
$("size").addEventListener("input", size);
$("wrong").addEventListener("change", () => $("videos").classList.toggle("only-wrong", $("wrong").checked));
pause(!playing);

// Videos of one row that are equally long are kept in step: loops of their own would drift apart.
setInterval(() => {
  if (!playing) return;
  for (const row of document.querySelectorAll(".wall tr.row")) {
    const [first, ...others] = [...row.querySelectorAll("video")].filter((video) => !video.paused && video.duration);
    for (const video of others) {
      const apart = Math.abs(video.currentTime - first.currentTime);
      const near = Math.min(apart, first.duration - apart);
      if (Math.abs(video.duration - first.duration) < 0.01 && near > 0.08) video.currentTime = first.currentTime;
    }
  }
}, 1000);

// ---------------------------------------------------------------------------------------------- a run that goes on
const parts = new Map([...document.querySelectorAll("[data-part]")].map((part) => [part.dataset.part, part]));

function arrange() {
  $("differences").hidden = data.groups.length < 2;
  $("measures").hidden = !parts.get("measures").firstElementChild;
  for (const link of document.querySelectorAll("nav a")) link.hidden = $(link.hash.slice(1)).hidden;
}

async function update() {
  const status = $("status");
  try {
    const answer = await fetch(`state?seen=${update.stamp ?? ""}`);
    if (!answer.ok) throw new Error(answer.statusText);
    const state = await answer.json();
    status.classList.remove("lost");
    if (state.stamp === update.stamp) return;
    update.stamp = state.stamp;
    $("made").textContent = state.made;
    for (const [name, html] of Object.entries(state.sections)) {
      const part = parts.get(name);
      if (!part || part.dataset.now === html) continue;
      part.dataset.now = html;
      part.innerHTML = html; // made by `dit.report.sections`, which escapes what runs say
      if (name === "walls") videos();
    }
    if (JSON.stringify(state.data) !== JSON.stringify(data)) {
      for (const metric of state.data.open) if (!data.curves.some((curve) => curve.metric === metric)) view.open.add(metric);
      data = state.data;
      legend();
      curves();
      picker();
    }
    arrange();
  } catch (error) {
    status.classList.add("lost");
    $("made").textContent = $("made").textContent.replace(/ \(.*/, "") + " (no answer from scripts/report.py --watch)";
  }
}

legend();
curves();
picker();
videos();
arrange();
if (live) {
  const again = () => update().finally(() => setTimeout(again, 2000));
  again();
}
root.dataset.ready = "1";
