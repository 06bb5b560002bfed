// The browser as a whole: its state, its controls, saving and loading. An anywidget module; a page uses it as well.

const SHARE = "nodes that together hold this share of the influence on the logits, the most influential first";
const KEYS = ["pinned", "supernodes", "threshold", "clicked"];

function render({model, el}) {
  const layout = model.get("places"), index = indexGraph(model.get("graph"), layout);
  const root = make("div", {class: "mi-graph", "data-lm-suppress-shortcuts": "true"}, el);
  const app = {index, layout, found: null, hovered: null, glanced: [], active: [], drawn: [0, 0]};
  for (const key of [...KEYS, "details", "graph"]) app[key] = model.get(key);

  app.describe = node => {
    const at = groupOf(app.supernodes, node.id);
    const more = [app.pinned.includes(node.id) ? ", pinned" : "", at < 0 ? "" : `, in supernode ${app.supernodes[at][0]}`];
    return `${titleOf(node)}, ${node.kind}, ${placeOf(node)}${more.join("")}`;
  };
  app.set = changes => {
    for (const [key, value] of Object.entries(changes)) model.set(key, value);
    model.save_changes();
  };
  app.click = node => app.set({clicked: node && node.id !== app.clicked ? node.id : ""});
  app.pin = node => {
    const there = app.pinned.includes(node.id);
    if (!there) app.set({pinned: [...app.pinned, node.id]});
    else app.set({pinned: app.pinned.filter(id => id !== node.id), supernodes: without(app.supernodes, [node.id])});
  };
  app.hover = node => {
    if (node === app.hovered) return;
    app.hovered = node;
    showActive();
  };
  app.glanceAt = nodes => {
    app.glanced = nodes;
    lightUp();
  };
  app.glance = node => app.glanceAt(node ? [node] : []);

  const controls = makeControls(root, app);
  const body = make("div", {class: "mi-body"}, root);
  let chart = null;
  const panel = makePanel(body, app);
  const left = make("div", {class: "mi-left"});
  body.prepend(left);

  // Pointed at in a list or in the drawing, else clicked.
  function lightUp() {
    const chosen = app.hovered ?? index.byId.get(app.clicked);
    app.active = app.glanced.length ? app.glanced : chosen ? [chosen] : [];
    chart?.highlight(app.active);
  }
  function showActive() {
    lightUp();
    panel.show(app.hovered ?? index.byId.get(app.clicked) ?? null);
  }
  function update() {
    for (const key of KEYS) app[key] = model.get(key);
    app.glanced = [];
    const kept = new Set([...app.pinned, ...app.supernodes.flatMap(group => group.slice(1))]);
    app.shown = new Set(index.nodes.filter(node => passes(node, app.threshold) || kept.has(node.id)));
    const chosen = app.hovered ?? index.byId.get(app.clicked);
    app.active = chosen ? [chosen] : [];
    chart?.update();
    controls.update();
    groups?.update();
    showActive();
  }
  app.search = text => {
    app.found = text.trim() ? new Set(index.nodes.filter(node => matches(node, text))) : null;
    chart.update();
    controls.update();
  };
  app.focusFound = () => {
    const first = index.nodes.find(node => app.found?.has(node) && app.shown.has(node));
    if (first) chart.focus(first);
  };
  app.clear = () => {
    app.hovered = null;
    controls.clear();
    app.set({clicked: ""});
    app.search("");
  };

  let groups = null;
  update();
  chart = makeChart(left, app);
  groups = makeGroups(root, app);
  update();
  root.addEventListener("keydown", event => {
    if (event.key !== "Escape") return;
    app.clear();
    event.stopPropagation();
  });
  const events = KEYS.map(key => `change:${key}`);
  for (const event of events) model.on(event, update);
  requestAnimationFrame(() => requestAnimationFrame(() => performance.mark("mi-graph-painted")));
  return () => {
    for (const event of events) model.off(event, update);
    chart.stop();
  };
}

// Search, slider, saving and loading, and a line that says what is shown.
function makeControls(parent, app) {
  const {index} = app;
  const bar = make("div", {class: "mi-bar-top"}, parent);
  const field = (text, attributes) => {
    const label = make("label", {}, bar, `${text} `);
    return make("input", attributes, label);
  };
  const search = field("search", {type: "search", placeholder: "label, token or id", class: "mi-search"});
  const slider = field("cumulative influence up to", {type: "range", min: 0, max: 1, step: 0.01, class: "mi-slider", title: SHARE});
  const value = make("output", {}, bar);
  const save = make("button", {type: "button", class: "mi-save"}, bar, "save");
  const load = make("button", {type: "button", class: "mi-load"}, bar, "load");
  const file = make("input", {type: "file", accept: ".json,application/json", "aria-label": "a saved graph", hidden: ""}, bar);
  const status = make("div", {role: "status", class: "mi-status"}, parent);
  makeLegend(parent);
  let said = "";
  search.addEventListener("input", () => app.search(search.value));
  search.addEventListener("keydown", event => event.key === "Enter" && app.focusFound());
  slider.addEventListener("input", () => app.set({threshold: Number(slider.value)}));
  save.addEventListener("click", () => download(app));
  load.addEventListener("click", () => file.click());
  file.addEventListener("change", async () => {
    const text = await file.files[0]?.text();
    file.value = "";
    if (text !== undefined) open(text);
  });

  function open(text) {
    let state = null;
    try {
      state = stateIn(JSON.parse(text), index);
    } catch {}
    if (state) app.set({pinned: state.pinned, supernodes: state.supernodes, clicked: state.clicked});
    const loaded = state && `Loaded: ${state.pinned.length} pinned, ${state.supernodes.length} supernodes` +
      (state.lost ? `; ${state.lost} nodes of the file are not in this graph.` : ".");
    said = loaded ?? "This file is no saved graph: it has no JSON with qParams.";
    update();  // of the controls, after what the new state has set off
  }

  function update() {
    slider.value = app.threshold;
    value.textContent = Number(app.threshold).toFixed(2);
    const found = app.found ? `${[...app.found].filter(node => app.shown.has(node)).length} found. ` : "";
    const [drawn, all] = app.drawn;
    const links = drawn < all ? `the ${drawn} largest of ${all} links` : `${all} links`;
    status.textContent = `${found}${app.shown.size} of ${index.nodes.length} nodes, ${links}. ${said}`;
    said = "";
  }
  return {update, clear: () => (search.value = "")};
}

function makeLegend(parent) {
  const legend = make("div", {class: "mi-legend"}, parent);
  for (const kind of ["token", "feature", "error", "logit"]) {
    const item = make("span", {}, legend), svg = draw("svg", {width: 16, height: 16, viewBox: "-8 -8 16 16"}, item);
    draw("path", {class: "mi-shape", ...SHAPES[kind]}, draw("g", {class: `mi-node mi-${kind}`}, svg));
    make("span", {}, item, kind);
  }
  for (const [kind, text] of [["mi-plus", "positive"], ["mi-minus", "negative"]]) {
    const item = make("span", {}, legend), svg = draw("svg", {width: 30, height: 16}, item);
    draw("path", {class: kind, d: "M1 8H29", "stroke-width": 2}, draw("g", {class: "mi-links mi-strong"}, svg));
    make("span", {}, item, text);
  }
  make("span", {}, legend, "thick outline: pinned, number: supernode");
}

// The whole graph file again, with the state of the view in its qParams.
function download({graph, pinned, supernodes, clicked}) {
  const saved = {...graph, qParams: {...graph.qParams, pinnedIds: pinned, supernodes, clickedId: clicked}};
  const url = URL.createObjectURL(new Blob([JSON.stringify(saved, null, 1)], {type: "application/json"}));
  make("a", {href: url, download: `${graph.metadata.slug}.json`}).click();
  setTimeout(() => URL.revokeObjectURL(url), 1000);
}
