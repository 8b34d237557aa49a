// The explorer's table: values, the view that the address holds, filters and order. `charts.js` follows in the same script.
// Text goes into the page as text nodes, never as HTML.

const data = JSON.parse(byId("data").textContent);
const columns = new Map(data.columns.map(column => [column.key, column]));
const lines = data.cell_of.map((_, i) => i);
const PAGE_SIZE = 100;
const WAIT_MS = 150;  // for the pointer to rest on a row, and for the next letter of a search
const compareTexts = new Intl.Collator("en", {numeric: true}).compare;

// ---------------------------------------------------------------- values

/** A line's value: a number, a text, or null. */
function valueOf(column, i) {
  const value = column.values[i];
  return column.levels && value !== null ? column.levels[value] : value;
}

const FORMATS = {
  count: new Intl.NumberFormat("en", {maximumFractionDigits: 0}),
  percent: new Intl.NumberFormat("en", {minimumFractionDigits: 2, maximumFractionDigits: 2}),
  number: new Intl.NumberFormat("en", {minimumSignificantDigits: 3, maximumSignificantDigits: 3}),
  plain: new Intl.NumberFormat("en", {maximumSignificantDigits: 6, useGrouping: false}),
};
const count = FORMATS.count.format;

function format(column, value) {
  if (value === null) return "-";
  return typeof value === "string" ? value : FORMATS[column.kind].format(value);
}

/** What the table shows: with the standard deviation, and the marks of the timing. */
function shown(column, i) {
  const value = valueOf(column, i);
  if (value === null) return "-";
  const sd = column.sd?.[i] == null ? "" : ` ± ${format(column, column.sd[i])}`;
  const isTime = column.key === "images_per_s" || column.key === "step_ms";
  const marks = isTime ? (valueOf(columns.get("timing"), i) ?? "").match(/^[†‡]*/)[0] : "";
  return format(column, value) + sd + marks;
}

/** The same with the interval, for tool tips and the row in detail. */
function full(column, i) {
  const low = column.low?.[i], high = column.high?.[i];
  return shown(column, i) + (low == null ? "" : ` [${format(column, low)}, ${format(column, high)}]`);
}

function nameOf(i) {
  return `${shown(columns.get("experiment"), i)}: ${shown(columns.get("cell"), i)}`;
}

/** All that the search looks at, in lower case; made when first asked for. */
const texts = [];
function textOf(i) {
  return texts[i] ??= [
    ...data.columns.filter(column => column.levels).map(column => valueOf(column, i) ?? ""),
    ...Object.entries(data.cells[data.cell_of[i]].about).map(pair => pair.join("=")),
  ].join("\n").toLowerCase();
}

// ---------------------------------------------------------------- the view, kept in the address

const isKnown = key => columns.get(key).values.some(value => value !== null);
const VIEW = {  // key in the address, and its value where the address does not say
  q: "", sort: "", page: "1", x: isKnown("images_per_s") ? "images_per_s" : "parameters", y: "test", colour: "model",
  log: "x", row: "", columns: data.columns.filter(column => column.shown).map(column => column.key).join(","),
  ...Object.fromEntries(data.filters.map(key => [key, ""])),
};
let view;          // as VIEW
let found = [];    // the lines that pass the filters, in order
let drawn = null;  // the line in detail

function readAddress() {
  const given = new URLSearchParams(location.hash.slice(1));
  view = Object.fromEntries(Object.entries(VIEW).map(([key, value]) => [key, given.get(key) ?? value]));
  for (const key of ["x", "y", "colour"]) if (!columns.has(view[key])) view[key] = VIEW[key];
  if (!/^\d+$/.test(view.row) || Number(view.row) >= lines.length) view.row = "";
}

function writeAddress() {
  const changed = Object.entries(view).filter(([key, value]) => value !== VIEW[key]);
  history.replaceState(null, "", `#${new URLSearchParams(changed)}`);
}

/** Change the view and show it. A new filter or order starts at the first page. */
function change(changes) {
  view = {...view, page: "1", ...changes};
  show();
  writeAddress();
}

// ---------------------------------------------------------------- filter and sort

const COMPARISONS = {
  "=": order => order === 0, "!=": order => order !== 0, "<": order => order < 0, "<=": order => order <= 0,
  ">": order => order > 0, ">=": order => order >= 0,
};

/** One word of the search as a test of a line. */
function testOf(word) {
  const [, key, sign, wanted] = word.match(/^([\w.]+)(<=|>=|!=|=|<|>)(.+)$/) ?? [];
  const column = columns.get(key);
  if (column) {
    const order = column.levels ? value => compareTexts(value.toLowerCase(), wanted) : value => value - Number(wanted);
    return i => valueOf(column, i) !== null && COMPARISONS[sign](order(valueOf(column, i)));
  }
  if (word.startsWith("-") && word.length > 1) return i => !textOf(i).includes(word.slice(1));
  return i => textOf(i).includes(word);
}

function filtered() {
  const tests = view.q.toLowerCase().split(/\s+/).filter(Boolean).map(testOf);
  for (const key of data.filters.filter(key => view[key])) {
    tests.push(i => String(valueOf(columns.get(key), i) ?? "-") === view[key]);
  }
  return lines.filter(i => tests.every(test => test(i)));
}

/** Lines without a value come last in either direction. */
function sorted(some) {
  const column = columns.get(view.sort.replace(/^-/, ""));
  if (!column) return some;
  const sign = view.sort.startsWith("-") ? -1 : 1;
  const inOrder = column.levels && [...column.levels.keys()].sort((a, b) => compareTexts(column.levels[a], column.levels[b]));
  const rank = inOrder && new Map(inOrder.map((level, place) => [level, place]));
  const key = i => column.values[i] === null ? null : rank ? rank.get(column.values[i]) : column.values[i];
  return [...some].sort((a, b) => {
    const left = key(a), right = key(b);
    return left === null || right === null ? (left === null) - (right === null) : sign * (left - right);
  });
}

// ---------------------------------------------------------------- controls

function byId(id) { return document.getElementById(id); }

/** An element with properties or attributes, and children; strings become text nodes. */
function element(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name in made) made[name] = value; else made.setAttribute(name, value);
  }
  made.append(...children);
  return made;
}

function setOptions(select, pairs) {
  select.replaceChildren(...pairs.map(([value, text]) => element("option", {value, title: text}, text)));
}

function buildControls() {
  for (const key of data.filters) {
    const column = columns.get(key);
    const values = [...new Set(lines.map(i => String(valueOf(column, i) ?? "-")))].sort(compareTexts);
    if (values.length < 2) continue;
    const select = element("select", {id: `filter-${key}`, onchange: () => change({[key]: select.value})});
    setOptions(select, [["", `all (${values.length})`], ...values.map(value => [value, value])]);
    byId("choices").append(element("label", {}, `${column.title} `, select));
  }
  for (const column of data.columns.filter(column => column.key !== "cell")) {
    const box = element("input", {type: "checkbox", value: column.key, onchange: chooseColumns});
    const name = column.title === column.key ? "" : element("code", {}, column.key);
    byId("column-choices").append(element("label", {title: column.meaning}, box, ` ${column.title} `, name));
  }
  for (const key of ["x", "y", "colour"]) {
    setOptions(byId(key), data.columns.map(column => [column.key, column.title]));
    byId(key).onchange = event => change({[key]: event.target.value, page: view.page});
  }
  for (const axis of ["x", "y"]) {
    byId(`log${axis}`).onchange = () =>
      change({log: ["x", "y"].filter(each => byId(`log${each}`).checked).join(""), page: view.page});
  }
  let waiting;
  byId("q").oninput = () => { clearTimeout(waiting); waiting = setTimeout(() => change({q: byId("q").value}), WAIT_MS); };
  byId("filters").onsubmit = event => event.preventDefault();
  byId("clear").onclick = () => change({q: "", ...Object.fromEntries(data.filters.map(key => [key, ""]))});
  byId("previous").onclick = () => change({page: String(Number(view.page) - 1)});
  byId("next").onclick = () => change({page: String(Number(view.page) + 1)});
}

function chooseColumns() {
  const chosen = [...byId("column-choices").querySelectorAll(":checked")].map(box => box.value);
  change({columns: chosen.join(","), page: view.page});
}

function showControls() {
  if (byId("q").value !== view.q) byId("q").value = view.q;  // else the cursor would jump
  for (const key of data.filters) if (byId(`filter-${key}`)) byId(`filter-${key}`).value = view[key];
  for (const key of ["x", "y", "colour"]) byId(key).value = view[key];
  for (const axis of ["x", "y"]) {
    byId(`log${axis}`).checked = view.log.includes(axis);
    byId(`log${axis}`).disabled = Boolean(columns.get(view[axis]).levels);
  }
  const chosen = view.columns.split(",");
  for (const box of byId("column-choices").querySelectorAll("input")) box.checked = chosen.includes(box.value);
}

// ---------------------------------------------------------------- table

function showTable() {
  const chosen = [...view.columns.split(","), "cell"];
  const visible = data.columns.filter(column => chosen.includes(column.key));
  const numPages = Math.max(1, Math.ceil(found.length / PAGE_SIZE));
  const page = Math.min(Math.max(1, Math.trunc(Number(view.page)) || 1), numPages);
  view.page = String(page);
  byId("count").textContent = `${count(found.length)} of ${count(lines.length)} rows`;
  byId("page").textContent = `page ${page} of ${numPages}`;
  byId("previous").disabled = page === 1;
  byId("next").disabled = page === numPages;
  byId("pager").hidden = numPages === 1;
  showHead(visible);
  byId("rows").replaceChildren(...found.slice((page - 1) * PAGE_SIZE, page * PAGE_SIZE).map(i => rowOf(i, visible)));
  if (!found.length) byId("rows").append(element("tr", {}, element("td", {}, "No row passes the filters.")));
  markRows();
}

function showHead(visible) {
  const focused = document.activeElement.dataset.sort;
  byId("head").replaceChildren(...visible.map(column => {
    const direction = {[column.key]: "ascending", [`-${column.key}`]: "descending"}[view.sort] ?? "none";
    const next = {none: column.key, ascending: `-${column.key}`, descending: ""}[direction];
    const button = element("button", {"data-sort": column.key, title: column.meaning || column.title,
      onclick: () => change({sort: next})}, column.title);
    return element("th", {scope: "col", "aria-sort": direction, className: column.levels ? "" : "number"}, button);
  }));
  byId("head").querySelector(`[data-sort="${focused}"]`)?.focus();
}

function rowOf(i, visible) {
  const failed = data.cells[data.cell_of[i]].failures.length > 0;
  return element("tr", {"data-line": i}, ...visible.map(column => {
    const text = shown(column, i);
    if (column.key === "cell") {
      return element("th", {scope: "row"}, element("button", {title: text, onclick: () => keep(i)}, text));
    }
    const isBad = failed && (column.key === "reason" || column.key === "status");
    return element("td", {className: column.levels ? (isBad ? "bad" : "") : "number", title: text}, text);
  }));
}

function markRows() {
  for (const row of byId("rows").children) {
    row.classList.toggle("shown", row.dataset.line === String(drawn));
    row.classList.toggle("kept", row.dataset.line === view.row);
    row.querySelector("button")?.setAttribute("aria-pressed", row.dataset.line === view.row);
  }
  byId("kept").hidden = view.row === "";
}

/** Keep a line in detail; let go of the one that is kept already. */
function keep(i) {
  view.row = view.row === String(i) ? "" : String(i);
  writeAddress();
  preview(i);
  ringKept();
}

function preview(i) {
  if (i !== drawn) showDetail(i);
  drawn = i;
  markRows();
}

function listenToRows() {
  const lineOf = event => Number(event.target.closest("tr").dataset.line ?? NaN);
  const rows = byId("rows");
  let waiting;
  rows.onmouseover = event => {
    clearTimeout(waiting);
    const line = lineOf(event);
    if (line >= 0 && view.row === "") waiting = setTimeout(() => preview(line), WAIT_MS);
  };
  rows.onmouseleave = () => clearTimeout(waiting);
  rows.onclick = event => { if (!event.target.closest("button") && lineOf(event) >= 0) keep(lineOf(event)); };
  rows.addEventListener("focusin", event => { if (view.row === "") preview(lineOf(event)); });
  rows.onkeydown = event => {
    const row = event.target.closest("tr");
    const other = {ArrowDown: row.nextElementSibling, ArrowUp: row.previousElementSibling}[event.key];
    if (!other) return;
    event.preventDefault();
    other.querySelector("button").focus();
  };
  document.onkeydown = event => { if (event.key === "Escape" && view.row !== "") keep(Number(view.row)); };
}
