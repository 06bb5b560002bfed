// The drawing: nodes by token position and layer, links between them, and the keys that move among the nodes.
// Text only ever goes into the page as text.

// Pixels: a node's room, what the rows should fill at least, room for layers, for leaning names and for tokens.
const UNIT = 15, WIDEST = 6, TALLEST = 2.2, FILLED = 330, LEFT = 46, HEAD = 104, FOOT = 26, RADIUS = 5.5;
const FAINT_LINKS = 1000, CROWD = 500;  // drawn for the whole graph; a chosen node shows all of its own

function make(tag, attributes = {}, parent = null, text = null) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  if (text !== null) element.textContent = text;
  parent?.append(element);
  return element;
}

function draw(tag, attributes = {}, parent = null, text = null) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  if (text !== null) element.textContent = text;
  parent?.append(element);
  return element;
}

const SHAPES = {
  feature: {d: "M5.5 0A5.5 5.5 0 1 1-5.5 0A5.5 5.5 0 1 1 5.5 0Z"},
  error: {d: "M0-6.5L6.5 0L0 6.5L-6.5 0Z"},
  token: {d: "M-5-5H5V5H-5Z"},
  logit: {d: "M-5.5-5.5H5.5V5.5H-5.5Z"},
};

function makeChart(parent, app) {
  const {index, layout} = app;
  const scroll = make("div", {class: "mi-scroll"}, parent);
  const layers = draw("svg", {class: "mi-layers", width: LEFT, "aria-hidden": "true"}, scroll);
  const label = `Attribution graph of ${index.nodes.length} nodes; arrow keys move, Enter clicks, p pins, Escape clears`;
  const chart = draw("svg", {class: "mi-chart", role: "group", "aria-label": label}, scroll);
  make("div", {class: "mi-corner"}, scroll);
  const tokens = draw("svg", {class: "mi-tokens", height: FOOT, "aria-hidden": "true"}, scroll);
  const bands = draw("g", {class: "mi-bands"}, chart);
  const faint = draw("g", {class: "mi-links"}, chart), strong = draw("g", {class: "mi-links mi-strong"}, chart);
  const marks = index.nodes.map(node => makeNode(draw("g", {}, chart), node));
  const names = draw("g", {class: "mi-names", "aria-hidden": "true"}, chart);
  let stretch = 1, current = null;

  const top = layout.rows.at(-1), tall = UNIT * Math.min(TALLEST, Math.max(1, FILLED / (top * UNIT)));
  const height = HEAD + top * tall;
  const px = x => x * UNIT * stretch, py = y => HEAD + (top - y) * tall;
  const at = node => [px(node.x), py(node.y)];

  function place() {
    const units = layout.columns.at(-1), width = px(units);
    for (const [element, size] of [[chart, width], [tokens, width]]) element.setAttribute("width", size);
    for (const element of [chart, layers]) element.setAttribute("height", height);
    for (const mark of marks) {
      const [x, y] = at(mark.node);
      mark.group.setAttribute("transform", `translate(${x} ${y})`);
    }
    drawAxes(width);
  }

  function drawAxes(width) {
    bands.replaceChildren();
    tokens.replaceChildren();
    layers.replaceChildren();
    layout.row_names.forEach((name, i) => {
      const low = py(layout.rows[i]), high = py(layout.rows[i + 1]);
      if (i % 2) draw("rect", {x: 0, y: high, width, height: low - high}, bands);
      draw("text", {x: LEFT - 6, y: (low + high) / 2 + 4, "text-anchor": "end"}, layers, cut(name, 7));
    });
    layout.tokens.forEach((token, i) => {
      const from = px(layout.columns[i]), to = px(layout.columns[i + 1]);
      if (i) draw("line", {x1: from, x2: from, y1: 0, y2: height}, bands);
      const fits = Math.max(2, Math.floor((to - from - 4) / 7.3));
      const text = draw("text", {x: (from + to) / 2, y: 17, "text-anchor": "middle"}, tokens, cut(token, fits));
      draw("title", {}, text, `position ${i}: ${token}`);
    });
  }

  // Links bow, so that those between nodes of one column do not lie on one another.
  function curve({source, target}) {
    const [x1, y1] = at(source), [x2, y2] = at(target);
    const round = value => Math.round(value * 10) / 10;
    const cx = (x1 + x2) / 2 + 0.1 * (y2 - y1), cy = (y1 + y2) / 2 - 0.1 * (x2 - x1);
    return `M${round(x1)} ${round(y1)}Q${round(cx)} ${round(cy)} ${round(x2)} ${round(y2)}`;
  }

  // One path for each sign and width: thousands of links stay quick to draw.
  function drawFaint(links) {
    faint.replaceChildren();
    faint.classList.toggle("mi-crowd", links.length > CROWD);
    const largest = Math.abs(links[0]?.weight ?? 1), paths = new Map();
    for (const link of links) {
      const width = Math.ceil(3 * Math.sqrt(Math.abs(link.weight) / largest)) || 1;
      const kind = `${link.weight < 0 ? "mi-minus" : "mi-plus"} mi-width${width}`;
      if (!paths.has(kind)) paths.set(kind, []);
      paths.get(kind).push(curve(link));
    }
    for (const [kind, parts] of [...paths].sort()) draw("path", {class: kind, d: parts.join("")}, faint);
  }

  function drawStrong(links) {
    strong.replaceChildren();
    const largest = Math.max(...links.map(link => Math.abs(link.weight)), 0);
    for (const link of links) {
      const width = 0.8 + 3.2 * Math.abs(link.weight) / largest;
      draw("path", {class: link.weight < 0 ? "mi-minus" : "mi-plus", "stroke-width": width, d: curve(link)}, strong);
    }
  }

  function update() {
    const {active, found, shown, pinned, clicked, supernodes} = app;
    const links = index.links.filter(({source, target}) => shown.has(source) && shown.has(target));
    drawFaint(links.slice(0, FAINT_LINKS));
    app.drawn = [Math.min(links.length, FAINT_LINKS), links.length];
    for (const {node, group, number} of marks) {
      const member = groupOf(supernodes, node.id);
      group.classList.toggle("mi-hidden", !shown.has(node));
      group.classList.toggle("mi-pinned", pinned.includes(node.id));
      group.classList.toggle("mi-clicked", node.id === clicked);
      group.classList.toggle("mi-grouped", member >= 0);
      group.classList.toggle("mi-found", !!found && found.has(node));
      group.setAttribute("aria-pressed", String(node.id === clicked));
      group.setAttribute("aria-label", app.describe(node));
      number.textContent = member >= 0 ? String(member + 1) : "";
    }
    if (!current || !shown.has(current.node)) moveTo(marks.find(({node}) => shown.has(node)), false);
    highlight(active);
  }

  function highlight(active) {
    const near = new Set(active), links = [];
    for (const node of active)
      for (const link of [...node.into, ...node.out])
        if (app.shown.has(link.source) && app.shown.has(link.target)) {
          links.push(link);
          near.add(link.source).add(link.target);
        }
    drawStrong(links.sort((a, b) => Math.abs(a.weight) - Math.abs(b.weight)));
    chart.classList.toggle("mi-some", active.length > 0 || !!app.found);
    for (const {node, group} of marks) {
      group.classList.toggle("mi-near", near.has(node) || !!app.found?.has(node));
      group.classList.toggle("mi-active", active.includes(node));
    }
    drawNames(active);
  }

  // Logits always have their names; then what is pointed at, then pins as far as there is room beside them.
  function drawNames(active) {
    names.replaceChildren();
    const taken = [], pinned = new Set(app.pinned);
    for (const node of index.nodes) {
      if (node.kind !== "logit" || !app.shown.has(node)) continue;
      const [x, y] = at(node), turn = `translate(${x - 2} ${y - 11}) rotate(45)`;
      draw("text", {transform: turn, "text-anchor": "end"}, names, answerOf(node));
    }
    const others = index.nodes.filter(node => node.kind !== "logit" && app.shown.has(node) && pinned.has(node.id));
    for (const node of [...active, ...others.filter(one => !active.includes(one))]) {
      if (node.kind === "token" || node.kind === "logit") continue;
      const text = cut(titleOf(node), 24), width = 6.8 * text.length, [x, y] = at(node), most = px(layout.columns.at(-1));
      const left = [x + 11, x - 11 - width, x - width / 2, x - width / 2], base = [y + 4, y + 4, y - 12, y + 20];
      const free = [0, 1, 2, 3].find(i => left[i] >= 0 && left[i] + width <= most &&
        !taken.some(([l, b, w]) => left[i] < l + w && l < left[i] + width && Math.abs(b - base[i]) < 13));
      if (free === undefined && !active.includes(node)) continue;
      taken.push([left[free ?? 0], base[free ?? 0], width]);
      draw("text", {x: left[free ?? 0], y: base[free ?? 0]}, names, text);
    }
  }

  // Only one node is a stop of the Tab key; the arrows move to the next one in their direction.
  function moveTo(mark, focus = true) {
    if (!mark) return;
    current?.group.setAttribute("tabindex", "-1");
    current = mark;
    mark.group.setAttribute("tabindex", "0");
    if (focus) mark.group.focus();
  }

  function step(key) {
    const here = current.node, others = marks.filter(({node}) => app.shown.has(node) && node !== here);
    const sideways = key === "ArrowLeft" || key === "ArrowRight", sign = key === "ArrowLeft" || key === "ArrowDown" ? -1 : 1;
    const ahead = ({node}) => sign * (sideways ? node.x - here.x : node.y - here.y);
    const line = others.filter(mark => ahead(mark) > 0 && (!sideways || Math.abs(mark.node.y - here.y) < 0.01));
    const aside = mark => sideways ? 0 : Math.abs(mark.node.x - here.x);
    line.sort((a, b) => ahead(a) - ahead(b) || aside(a) - aside(b));
    moveTo(line[0]);
  }

  const under = event => marks[event.target.closest?.("[data-i]")?.dataset.i];
  chart.addEventListener("click", event => {
    const mark = under(event);
    if (mark) moveTo(mark, false);
    app.click(mark ? mark.node : null);
  });
  chart.addEventListener("mouseover", event => app.hover(under(event)?.node ?? null));
  chart.addEventListener("mouseleave", () => app.hover(null));
  // Not on the drawing: an SVG that listens for focus becomes a stop of the Tab key itself.
  scroll.addEventListener("focusin", event => under(event) && moveTo(under(event), false));
  chart.addEventListener("keydown", event => {
    const mark = under(event);
    if (!mark || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key.startsWith("Arrow")) step(event.key);
    else if (event.key === "Enter" || event.key === " ") app.click(mark.node);
    else if (event.key === "p" || event.key === "P") app.pin(mark.node);
    else return;
    event.preventDefault();
    event.stopPropagation();
  });

  function fit() {
    const room = scroll.clientWidth - LEFT - 2, units = layout.columns.at(-1) * UNIT;
    const wanted = room > 0 ? Math.min(WIDEST, Math.max(1, room / units)) : 1;
    if (Math.abs(wanted - stretch) < 0.005 && bands.childElementCount) return;
    stretch = wanted;
    place();
    update();
  }
  const watch = new ResizeObserver(fit);
  watch.observe(scroll);
  fit();
  return {
    update, highlight,
    focus: node => moveTo(marks[node.i]),
    show: node => marks[node.i].group.scrollIntoView({block: "nearest", inline: "nearest"}),
    stop: () => watch.disconnect(),
  };
}

function makeNode(group, node) {
  const given = {class: `mi-node mi-${node.kind}`, role: "button", tabindex: "-1", "data-i": node.i};
  for (const [name, value] of Object.entries(given)) group.setAttribute(name, value);
  draw("circle", {class: "mi-halo", r: RADIUS + 3.5}, group);
  draw("path", {class: "mi-shape", ...SHAPES[node.kind]}, group);
  const number = draw("text", {class: "mi-number", y: 3, "text-anchor": "middle"}, group);
  draw("title", {}, group, `${titleOf(node)} (${placeOf(node)})`);
  return {node, group, number};
}
