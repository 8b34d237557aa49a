// The explorer's plot and the row in detail, after `table.js` in the same script. `vegaEmbed` comes from the script before.

const MAX_BARS = 300;  // of intervals; more would hide the points
const MANY = 1000;     // points, from which on they are small and pale
const CURVES = ["training images", "validation", "test"];
const SHAPES = ["circle", "square", "triangle-up", "diamond", "cross", "triangle-down"];
const OTHER = "other";
const FEW = 6;  // numbers, up to which each has a colour of its own

const inDark = matchMedia("(prefers-color-scheme: dark)");

/** Okabe and Ito 2008, without the colour that the background would swallow. */
function colours() {
  return [inDark.matches ? "#F0E442" : "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"];
}

// ---------------------------------------------------------------- drawing

const charts = new Map();  // a box to the promise of its chart

function colourOf(name) { return getComputedStyle(document.documentElement).getPropertyValue(name); }

function draw(box, spec) {
  const [text, quiet, line, grid] = ["--fg", "--quiet", "--line", "--grid"].map(colourOf);
  const config = {
    background: null, font: "system-ui, sans-serif", view: {stroke: line},
    axis: {labelColor: quiet, titleColor: text, gridColor: grid, domainColor: line, tickColor: line, labelOverlap: true,
      labelSeparation: 8, labelLimit: 140, titleFontWeight: "normal"},
    legend: {labelColor: text, titleColor: text, titleFontWeight: "normal", labelLimit: 220, orient: "bottom", columns: 3},
  };
  // `ast`: expressions are interpreted, for the page's policy forbids code made from text. Log level 1: an empty plot is
  // no warning.
  const made = vegaEmbed(box, {width: "container", autosize: {type: "fit-x", contains: "padding"}, ...spec, config},
    {ast: true, actions: false, renderer: "canvas", tooltip: showTip, logLevel: 1});
  charts.set(box, made);
  return made;
}

/** Free the charts inside an element that is about to change. */
function release(within) {
  for (const [box, made] of charts) {
    if (within.contains(box)) { made.then(chart => chart.finalize()); charts.delete(box); }
  }
  byId("tip").hidden = true;
}

/** Called by Vega: `value` is a line's number in the plot, a text elsewhere, nothing beside the marks. */
function showTip(handler, event, item, value) {
  const tip = byId("tip");
  tip.hidden = value == null || value === "";
  if (tip.hidden) return;
  tip.textContent = typeof item.datum.id === "number" ? tipOf(item.datum.id) : String(value);
  tip.style.left = `${Math.min(event.clientX + 14, innerWidth - tip.offsetWidth - 8)}px`;
  tip.style.top = `${Math.min(event.clientY + 14, innerHeight - tip.offsetHeight - 8)}px`;
}

function tipOf(i) {
  const chosen = [view.x, view.y, view.colour].map(key => columns.get(key));
  // A time is told with the machine that it was measured on.
  const told = new Set([columns.get("seeds"), ...chosen.flatMap(column => [column, columns.get(column.clock) ?? column])]);
  return [nameOf(i), ...[...told].map(column => `${column.title}: ${full(column, i)}`)].join("\n");
}

// ---------------------------------------------------------------- plot

function showPlot() {
  const [x, y, colour] = ["x", "y", "colour"].map(key => columns.get(view[key]));
  const onLog = {x: isLog("x"), y: isLog("y")};
  const points = found.map(id => ({id, x: valueOf(x, id), y: valueOf(y, id), low: y.low?.[id] ?? null, high: y.high?.[id] ?? null,
    colour: valueOf(colour, id)}))
    .filter(point => ["x", "y"].every(key => point[key] !== null && (!onLog[key] || point[key] > 0)));
  byId("plotted").textContent = `${count(points.length)} of ${count(found.length)} rows have both values.`;
  showClocks([x, y], points.map(point => point.id));
  const {color, shape} = colouring(colour, points);
  const look = points.length > MANY ? {size: 20, opacity: 0.5} : {size: 55, opacity: 0.85};
  const bars = {transform: [{filter: "isValid(datum.low) && isValid(datum.high)"}], mark: {type: "rule", opacity: 0.6},
    encoding: {y: {field: "low"}, y2: {field: "high"}, color}};
  release(byId("plot"));
  draw(byId("scatter"), {
    data: {values: points}, height: 220, params: [{name: "kept", value: Number(view.row || -1)}],
    description: `${y.title} against ${x.title}; the table holds the same values`,
    encoding: {x: {field: "x", ...axisOf(x, onLog.x)}, y: {field: "y", ...axisOf(y, onLog.y)}},
    layer: [
      ...(y.low && points.length <= MAX_BARS ? [bars] : []),
      {mark: {type: "point", filled: true, ...look},
        encoding: {color, ...(shape && {shape}), tooltip: {field: "id", type: "nominal"}}},
      {transform: [{filter: "datum.id === kept"}], mark: {type: "point", size: 260, strokeWidth: 2.5, color: colourOf("--fg")}},
    ],
  }).then(({view: chart}) => chart.addEventListener("click", (event, item) => {
    if (typeof item?.datum?.id === "number") keep(item.datum.id);
  }));
}

/** Say so where a plot holds times of several machines, or of shared ones; offer to tell machines apart. */
function showClocks(axes, some) {
  const mixed = axes.filter(column => clocksOf(column, some).length > 1);
  const shared = axes.filter(column => some.some(i => isShared(column, i)));
  byId("clocks").hidden = !mixed.length && !shared.length;
  byId("clocks-text").textContent = [
    ...mixed.map(column => `The values of “${column.title}” come from ${clocksOf(column, some).length} machines: ` +
      "compare them within one machine only."),
    ...shared.map(column => `‡, no measurement of speed since other work ran beside: ` +
      `${count(some.filter(i => isShared(column, i)).length)} of the values of “${column.title}”.`),
  ].join(" ");
  const other = mixed.find(column => column.clock !== view.colour);
  byId("recolour").hidden = !other;
  if (other) byId("recolour").value = other.clock;
}

/** Ring the kept line's point without drawing the plot anew. */
function ringKept() {
  charts.get(byId("scatter")).then(({view: chart}) => chart.signal("kept", Number(view.row || -1)).runAsync());
}

function axisOf(column, onLog) {
  if (column.levels) {
    const labelAngle = column.levels.every(level => level.length <= 10) ? 0 : -40;
    return {type: "ordinal", title: column.title, sort: [...column.levels].sort(compareTexts), axis: {labelAngle}};
  }
  const scale = onLog ? {type: "log", nice: false, padding: 12} : {zero: false, padding: 12};
  return {type: "quantitative", title: column.title, scale};
}

/** Colour and shape for the most frequent texts; colour alone for a number. */
function colouring(column, points) {
  if (!column.levels && new Set(points.map(point => point.colour)).size > FEW) {
    const extent = inDark.matches ? [0.25, 1] : [0, 0.9];  // the end that the background would swallow is left out
    return {color: {field: "colour", type: "quantitative", title: column.title, legend: {type: "gradient"},
      scale: {scheme: {name: "viridis", extent}}}};
  }
  for (const point of points) point.colour = format(column, point.colour);
  const counts = new Map();
  for (const {colour} of points) counts.set(colour, (counts.get(colour) ?? 0) + 1);
  const frequent = [...counts.keys()].sort((a, b) => counts.get(b) - counts.get(a)).slice(0, 2 * SHAPES.length);
  for (const point of points) if (!frequent.includes(point.colour)) point.colour = OTHER;
  const domain = frequent.sort(compareTexts);
  const hues = domain.map((_, i) => colours()[i % 6]), shapes = domain.map((_, i) => SHAPES[(i + Math.trunc(i / 6)) % 6]);
  if (counts.size > domain.length) { domain.push(OTHER); hues.push("#888888"); shapes.push("stroke"); }
  const legend = domain.some(text => text.length > 30) ? {columns: 1, labelLimit: 380} : {};
  const field = {field: "colour", type: "nominal", title: column.title, legend};
  return {color: {...field, scale: {domain, range: hues}}, shape: {...field, scale: {domain, range: shapes}}};
}

// ---------------------------------------------------------------- the row in detail

function showDetail(i) {
  const cell = data.cells[data.cell_of[i]], box = byId("detail");
  const panels = panelsOf(cell.curves, data.times[i], shown(columns.get("machine"), i))
    .map(([title, note, spec]) => ({title, note, spec, chart: element("div")}));
  const code = element("code", {}, data.commands[i]), said = element("span", {role: "status"});
  const copy = element("button", {id: "copy", onclick: () => copyText(code, said)}, "Copy the command that reproduces it");
  const known = data.columns.filter(column => !column.key.includes(".") && valueOf(column, i) !== null);
  const values = [...known.map(column => [column.title, full(column, i)]), ...Object.entries(cell.about)];
  release(box);
  box.replaceChildren(
    element("h2", {}, nameOf(i)),
    ...cell.failures.map(text => element("p", {className: "bad"}, text)),
    element("p", {}, copy, " ", said),
    ...panels.flatMap(({title, note, chart}) => [element("h3", {}, title), chart, element("p", {className: "quiet"}, note)]),
    panels.length ? "" : element("p", {className: "quiet"}, "No curves or times."),
    element("h3", {}, "To reproduce it"), element("pre", {}, code),
    element("details", {open: !panels.length}, element("summary", {}, "All values and settings"),
      element("dl", {}, ...values.flatMap(([key, text]) => [element("dt", {}, key), element("dd", {}, text)]))),
  );
  for (const {chart, spec} of panels) draw(chart, spec);
}

function panelsOf(curves, times, machine) {
  const panels = [];
  if (curves) {
    const {seeds, of, every} = curves;
    const lines = of === 1 ? `seed ${seeds[0]}` : seeds.length < of ? `the first ${seeds.length} of ${of} seeds` : `${of} seeds`;
    const note = lines + (every > 1 ? `; one epoch in ${every} is shown` : "");
    panels.push(["Accuracy by epoch", note, curvesSpec(curves, "accuracy", "accuracy (%)")],
      ["Loss by epoch", note, curvesSpec(curves, "loss", "loss")]);
  }
  if (times) {
    const note = `${count(times.of)} steps on ${machine}${times.every > 1 ? `; one in ${times.every} is shown` : ""}`;
    panels.push(["Raw step times", [note, ...times.warnings].join("; "), timesSpec(times)]);
  }
  return panels;
}

async function copyText(code, said) {
  try {
    await navigator.clipboard.writeText(code.textContent);
    said.textContent = "copied";
  } catch {  // not allowed: leave it selected
    getSelection().selectAllChildren(code);
    said.textContent = "selected, copy it with the keyboard";
  }
}

function curvesSpec(curves, kind, title) {
  const values = CURVES.flatMap((series, s) => curves[kind][s].flatMap((epochs, k) => epochs.map((value, e) => {
    const epoch = e * curves.every + 1, seed = curves.seeds[k];
    return {epoch, value, series, seed, text: `${series}, seed ${seed}, epoch ${epoch}: ${value}`};
  })));
  const field = {field: "series", title: null, legend: {symbolType: "stroke", symbolStrokeWidth: 2}};
  return {
    data: {values}, height: 150, description: `${title} by epoch`,
    mark: {type: "line", point: {size: 14}, strokeWidth: 1.6, opacity: 0.8},
    encoding: {
      x: {field: "epoch", type: "quantitative", axis: {tickMinStep: 1, format: "d"}, scale: {zero: false, nice: false}},
      y: {field: "value", type: "quantitative", title, scale: {zero: false}},
      color: {...field, scale: {domain: CURVES, range: colours().slice(0, 3)}},
      strokeDash: {...field, scale: {domain: CURVES, range: [[1, 0], [6, 3], [2, 2]]}},
      detail: {field: "seed"}, tooltip: {field: "text"},
    },
  };
}

function timesSpec(times) {
  const values = times.step_ms.map((ms, k) => ({step: k * times.every + 1, ms, text: `step ${k * times.every + 1}: ${ms} ms`}));
  return {
    data: {values}, height: 120, description: "milliseconds by training step",
    mark: {type: "point", filled: true, size: 16, color: colours()[0]},
    encoding: {
      x: {field: "step", type: "quantitative", scale: {zero: false, nice: false}, axis: {format: "d"}},
      y: {field: "ms", type: "quantitative", title: "step (ms)", scale: {zero: false}}, tooltip: {field: "text"},
    },
  };
}

// ---------------------------------------------------------------- start

function show() {
  found = sorted(filtered());
  showControls();
  showTable();
  showPlot();
}

function start() {
  readAddress();
  show();
  if (view.row !== "") preview(Number(view.row));
}

byId("summary").textContent = `${count(data.num_records)} records, ${count(lines.length)} rows` + (data.num_left_out
  ? `; ${count(data.num_left_out)} records left out: superseded, or of another version of the training code` : "");
buildControls();
listenToRows();
addEventListener("hashchange", start);
inDark.onchange = () => { showPlot(); if (drawn !== null) showDetail(drawn); };
start();
