// The explorer's table: values, the view that the address holds, filters and order. `charts.js` follows in the same script.
// Text goes into the page as text nodes, never as HTML.

const data = JSON.parse(byId("data").textContent);
const columns = new Map(data.columns.map(column => [column.key, column]));
const CLOCKS = new Set(data.columns.map(column => column.clock).filter(Boolean));  // the columns of machines
const lines = data.cell_of.map((_, i) => i);
const PAGE_SIZE = 100;
const WAIT_MS = 150;  // for the pointer to rest on a row, and for the next letter of a search
const WAITING = "waiting", RECORDED = "with records";  // a status, and in the list of them all but that one
const WIDE = 20;  // times the least value: a greater span has a logarithmic axis by default
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

/** What the table shows: with the standard deviation, and the marks of a time. */
function shown(column, i) {
  const value = valueOf(column, i);
  if (value === null) return "-";
  const sd = column.sd?.[i] == null ? "" : ` ± ${format(column, column.sd[i])}`;
  return format(column, value) + sd + (column.marks?.[i] ?? "");
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
const isWaiting = i => valueOf(columns.get("status"), i) === WAITING;
const firstX = isKnown("images_per_s") ? "images_per_s" : "parameters";
const VIEW = {  // key in the address, and its value where the address does not say
  q: "", sort: isKnown("test") ? "-test" : "", page: "1", x: firstX, y: "test", row: "",
  colour: clocksOf(columns.get(firstX), lines).length > 1 ? columns.get(firstX).clock : "model",
  logx: "", logy: "",  // 1 or 0; else as the values ask for
  columns: data.columns.filter(column => column.shown).map(column => column.key).join(","),
  ...Object.fromEntries(data.filters.map(key => [key, ""])),
  status: lines.some(isWaiting) && !lines.every(isWaiting) ? RECORDED : "",
};
let view;          // as VIEW
let found = [];    // the lines that pass the filters, in order
let numHidden = 0; // the lines that pass all filters but that for records
let drawn = null;  // the line in detail

/** Whether other work ran beside a time: it is no measurement of speed. */
function isShared(column, i) { return column.marks?.[i].includes("‡") ?? false; }

/** The machines that a column's times come from, among some lines; none for what no machine decides. */
function clocksOf(column, some) {
  const clock = columns.get(column.clock);
  return clock ? [...new Set(some.filter(i => column.values[i] !== null).map(i => valueOf(clock, i)))] : [];
}

/** Whether an axis is logarithmic: as chosen, else where the values span a wide range. Percentages never ask for it. */
function isLog(axis) {
  const column = columns.get(view[axis]);
  if (column.levels) return false;
  if (view[`log${axis}`]) return view[`log${axis}`] === "1";
  let least = Infinity, most = 0;
  for (const value of found.map(i => column.values[i]).filter(value => value !== null)) {
    least = Math.min(least, value);
    most = Math.max(most, value);
  }
  return column.kind !== "percent" && least > 0 && most > WIDE * least;
}

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

const wordsOf = text => text.toLowerCase().split(/\s+/).filter(Boolean);

/** A word that compares, in its parts: name, sign, value. */
function partsOf(word) {
  return word.match(/^([\w.]+)(<=|>=|!=|=|<|>)(.+)$/)?.slice(1) ?? [];
}

/** The column of a name; settings need not be called by their section: `learning_rate`. */
function columnOf(name) {
  const ends = data.columns.filter(column => column.key.endsWith(`.${name}`));
  return columns.get(name) ?? (ends.length === 1 ? ends[0] : undefined);
}

/** One word of the search as a test of a line. */
function testOf(word) {
  const [name, sign, wanted] = partsOf(word), column = columnOf(name);
  if (column) {
    const order = column.levels ? value => compareTexts(value.toLowerCase(), wanted) : value => value - Number(wanted);
    return i => valueOf(column, i) !== null && COMPARISONS[sign](order(valueOf(column, i)));
  }
  if (word.startsWith("-") && word.length > 1) return i => !textOf(i).includes(word.slice(1));
  return i => textOf(i).includes(word);
}

/** What is wrong with a word of the search; nothing for most. */
function problemOf(word) {
  const [name, sign, wanted] = partsOf(word), column = columnOf(name);
  if (!name) return "";
  if (column?.levels || (column && !Number.isNaN(Number(wanted)))) return "";
  if (column) return `${column.key} is a number, and “${wanted}” none.`;
  if (sign === "=" && lines.some(i => textOf(i).includes(`${name}=`))) return "";  // a setting, found as text
  const near = nearest(name);
  const help = near ? `the nearest is “${near}”, as in ${near}${sign}${wanted}` : "Columns lists the names";
  return `No column is called “${name}”; ${help}.`;
}

/** The column whose name holds the word, or is a few letters away from it. */
function nearest(word) {
  const far = Math.max(2, word.length / 2);
  const ranked = data.columns.map(({key}) => [Math.min(...[key, key.split(".").at(-1)].map(name =>
    word.length > 2 && name.includes(word) ? 0.5 : distance(word, name))), key]);
  ranked.sort(([a, left], [b, right]) => a - b || left.length - right.length);
  return ranked[0][0] <= far ? ranked[0][1] : "";
}

/** Letters to add, drop, change or swap with the next: optimal string alignment. */
function distance(a, b) {
  const d = [...Array(a.length + 1)].map((_, i) => [i, ...Array(b.length).fill(i ? 0 : null)]);
  for (let j = 1; j <= b.length; j++) d[0][j] = j;
  for (let i = 1; i <= a.length; i++) {
    for (let j = 1; j <= b.length; j++) {
      d[i][j] = Math.min(d[i - 1][j] + 1, d[i][j - 1] + 1, d[i - 1][j - 1] + (a[i - 1] === b[j - 1] ? 0 : 1));
      const swapped = i > 1 && j > 1 && a[i - 1] === b[j - 2] && a[i - 2] === b[j - 1];
      if (swapped) d[i][j] = Math.min(d[i][j], d[i - 2][j - 2] + 1);
    }
  }
  return d[a.length][b.length];
}

function filtered() {
  const tests = wordsOf(view.q).map(testOf);
  for (const key of data.filters.filter(key => view[key])) {
    if (key === "status" && view.status === RECORDED) continue;  // below
    tests.push(i => String(valueOf(columns.get(key), i) ?? "-") === view[key]);
  }
  const passed = lines.filter(i => tests.every(test => test(i)));
  const kept = view.status === RECORDED ? passed.filter(i => !isWaiting(i)) : passed;
  numHidden = passed.length - kept.length;
  return kept;
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
    const most = key === "status" && VIEW.status === RECORDED ? [[RECORDED, RECORDED]] : [];
    setOptions(select, [...most, ["", `all (${values.length})`], ...values.map(value => [value, value])]);
    byId("choices").append(element("label", {}, `${column.title} `, select));
  }
  for (const column of data.columns.filter(column => column.key !== "cell")) {
    const box = element("input", {type: "checkbox", value: column.key, onchange: chooseColumns});
    const name = column.title === column.key ? "" : element("code", {}, column.key);
    byId("column-choices").append(element("label", {title: column.meaning}, box, ` ${column.title} `, name));
  }
  for (const key of ["x", "y", "colour"]) {
    setOptions(byId(key), data.columns.map(column => [column.key, column.title]));
    byId(key).onchange = event => change({[key]: event.target.value, [`log${key}`]: "", page: view.page});
  }
  for (const axis of ["x", "y"]) {
    byId(`log${axis}`).onchange = event => change({[`log${axis}`]: event.target.checked ? "1" : "0", page: view.page});
  }
  let waiting;
  byId("q").oninput = () => { clearTimeout(waiting); waiting = setTimeout(() => change({q: byId("q").value}), WAIT_MS); };
  byId("filters").onsubmit = event => event.preventDefault();
  byId("clear").onclick = () => change({q: "", ...Object.fromEntries(data.filters.map(key => [key, ""]))});
  byId("unhide").onclick = () => { change({status: ""}); byId("rows").querySelector("[tabindex='0']")?.focus(); };
  byId("recolour").onclick = () => { change({colour: byId("recolour").value, page: view.page}); byId("colour").focus(); };
  byId("to-rows").onclick = () => byId("rows").querySelector("[tabindex='0']")?.focus();
  byId("to-axes").onclick = () => byId("x").focus();
  byId("to-detail").onclick = () => (byId("copy") ?? byId("detail")).focus();
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
    byId(`log${axis}`).checked = isLog(axis);
    byId(`log${axis}`).disabled = Boolean(columns.get(view[axis]).levels);
  }
  byId("problem").textContent = wordsOf(view.q).map(problemOf).filter(Boolean).join(" ");
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
  byId("hidden").hidden = numHidden === 0;
  byId("num-hidden").textContent = count(numHidden);
  byId("page").textContent = `page ${page} of ${numPages}`;
  byId("previous").disabled = page === 1;
  byId("next").disabled = page === numPages;
  byId("pager").hidden = numPages === 1;
  showHead(visible);
  byId("rows").replaceChildren(...found.slice((page - 1) * PAGE_SIZE, page * PAGE_SIZE).map(i => rowOf(i, visible)));
  if (!found.length) byId("rows").append(element("tr", {}, element("td", {colSpan: visible.length}, "No row passes the filters.")));
  const kept = byId("rows").querySelector(`[data-line="${view.row}"] button`);
  reach(kept ?? byId("rows").querySelector("button"));
  markRows();
}

/** Let Tab stop at one row only, that it was at last; the arrow keys go on from there. */
function reach(button) {
  for (const other of byId("rows").querySelectorAll("[tabindex='0']")) other.tabIndex = -1;
  if (button) button.tabIndex = 0;
}

function showHead(visible) {
  const focused = document.activeElement.dataset.sort;
  byId("head").replaceChildren(...visible.map(column => {
    const direction = {[column.key]: "ascending", [`-${column.key}`]: "descending"}[view.sort] ?? "none";
    const up = column.key, down = `-${up}`, order = column.descends ? [down, up, ""] : [up, down, ""];
    const next = order[(order.indexOf(direction === "none" ? "" : view.sort) + 1) % order.length];
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
      return element("th", {scope: "row"}, element("button", {title: text, tabIndex: -1, onclick: () => keep(i)}, text));
    }
    const isBad = failed && (column.key === "reason" || column.key === "status");
    const className = !column.levels ? "number" : isBad ? "bad" : column.key;
    const brief = CLOCKS.has(column.key) ? text.split(":")[0] : text;  // M1; the rest on pointing at it
    return element("td", {className, title: text}, brief);
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
  // Rows that move below a pointer at rest are no wish to see them: the keyboard may be at work.
  let waiting, pointer = "";
  const placeOf = event => `${event.screenX} ${event.screenY}`;
  rows.onmousemove = event => { pointer = placeOf(event); };
  rows.onmouseover = event => {
    clearTimeout(waiting);
    const line = lineOf(event);
    if (line >= 0 && view.row === "" && placeOf(event) !== pointer) waiting = setTimeout(() => preview(line), WAIT_MS);
  };
  rows.onmouseleave = () => clearTimeout(waiting);
  rows.onclick = event => { if (!event.target.closest("button") && lineOf(event) >= 0) keep(lineOf(event)); };
  rows.addEventListener("focusin", event => {
    clearTimeout(waiting);
    reach(event.target);
    if (view.row === "") preview(lineOf(event));
  });
  rows.onkeydown = event => {
    const row = event.target.closest("tr");
    const other = {ArrowDown: row.nextElementSibling, ArrowUp: row.previousElementSibling, Home: rows.firstElementChild,
      End: rows.lastElementChild}[event.key];
    if (!other) return;
    event.preventDefault();
    other.querySelector("button").focus();
  };
  document.onkeydown = event => { if (event.key === "Escape" && view.row !== "") keep(Number(view.row)); };
}
