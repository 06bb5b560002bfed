// What stands beside and below the drawing: a node's facts, inputs and outputs; pins, supernodes and their graph.

const SHORT = 12;  // rows of a table before "show all"

// What is built anew keeps the focus where it was, by the data-key of the element that had it.
function rebuilt(container, build) {
  const key = container.contains(document.activeElement) ? document.activeElement.dataset.key : undefined;
  container.replaceChildren();
  build();
  if (key !== undefined) [...container.querySelectorAll("[data-key]")].find(one => one.dataset.key === key)?.focus();
}

function makePanel(parent, app) {
  const panel = make("aside", {class: "mi-panel", "aria-label": "the node that is pointed at or clicked"}, parent);
  let opened = null, open = new Set();

  const show = node => rebuilt(panel, () => build(node));

  function build(node) {
    if (!node) {
      make("p", {class: "mi-hint"}, panel,
        "Point at a node to see what feeds it and what it feeds; click to keep it here. Press p or the button to pin it.");
      return;
    }
    if (opened !== node) [opened, open] = [node, new Set()];
    const head = make("div", {class: "mi-head"}, panel);
    make("h3", {}, head, titleOf(node));
    const pinned = app.pinned.includes(node.id);
    const pin = make("button", {type: "button", "aria-pressed": String(pinned), "data-key": "pin"}, head, pinned ? "unpin" : "pin");
    pin.addEventListener("click", () => app.pin(node));
    facts(make("dl", {}, panel), node);
    details(node);
    table("Inputs", node, node.into, link => link.source);
    table("Outputs", node, node.out, link => link.target);
  }

  function facts(list, node) {
    const {raw} = node, at = groupOf(app.supernodes, node.id);
    const rows = [
      ["kind", node.kind === "feature" || node.kind === "error" ? raw.feature_type : node.kind],
      ["where", placeOf(node)], ["id", node.id],
      ["activation", raw.activation == null ? null : plain(raw.activation)],
      ["probability", node.kind === "logit" ? plain(raw.token_prob ?? 0) : null],
      ["cumulative influence", raw.influence == null ? null : plain(raw.influence)],
      ["supernode", at < 0 ? null : app.supernodes[at][0]],
    ];
    for (const [name, value] of rows) if (value !== null) pair(list, name, value);
  }

  function pair(list, name, value) {
    make("dt", {}, list, name);
    make("dd", {}, list, value);
  }

  function details(node) {
    const all = app.details, found = Object.hasOwn(all, node.id) ? all[node.id] : null;
    if (found === null) return;
    if (typeof found === "string") make("p", {class: "mi-details"}, panel, found);
    else {
      const list = make("dl", {class: "mi-details"}, panel);
      for (const [name, value] of Object.entries(found)) pair(list, name, String(value));
    }
  }

  function table(name, node, links, other) {
    if (!links.length) {
      make("p", {class: "mi-hint"}, panel, `${name}: none in this graph.`);
      return;
    }
    const sum = links.reduce((total, link) => total + link.weight, 0);
    const whole = make("table", {}, panel);
    make("caption", {}, whole, `${name}: ${links.length}, sum ${signed(sum)}`);
    const body = make("tbody", {}, whole), largest = Math.abs(links[0].weight);
    const rows = open.has(name) ? links : links.slice(0, SHORT);
    for (const link of rows) {
      const far = other(link), row = make("tr", {class: app.shown.has(far) ? "" : "mi-below"}, body);
      make("td", {class: "mi-weight"}, row, signed(link.weight));
      const bar = make("td", {class: "mi-bar"}, row), width = 40 * Math.abs(link.weight) / (largest || 1);
      make("span", {class: link.weight < 0 ? "mi-minus" : "mi-plus", style: `width:${width}px`}, bar);
      const given = {type: "button", class: "mi-link", title: placeOf(far), "data-key": `${name} ${far.id}`};
      const button = make("button", given, make("td", {}, row));
      make("span", {}, button, titleOf(far));
      if (far.kind !== "token" && far.kind !== "logit") make("small", {}, button, `  layer ${far.raw.layer}, ${far.token}`);
      button.addEventListener("click", () => app.click(far));
      row.addEventListener("mouseenter", () => app.glance(far));
      row.addEventListener("mouseleave", () => app.glance(null));
    }
    if (links.length > SHORT && !open.has(name)) {
      const more = make("button", {type: "button", class: "mi-more"}, panel, `show all ${links.length}`);
      more.addEventListener("click", () => (open.add(name), show(node)));
    }
  }

  return {show};
}

function makeGroups(parent, app) {
  const section = make("section", {class: "mi-groups", "aria-label": "pinned nodes and supernodes"}, parent);
  const lists = make("div", {class: "mi-lists"}, section), drawing = make("div", {class: "mi-small"}, section);
  let ticked = new Set(), draft = "", drawn = "";

  // Rows stay where their nodes do: who renames a supernode and clicks a button next still finds it there.
  function update() {
    ticked = new Set([...ticked].filter(i => i < app.supernodes.length));
    const shape = JSON.stringify([app.pinned, app.supernodes.map(group => group.slice(1)), [...ticked]]);
    if (shape !== drawn) {
      rebuilt(lists, () => {
        pins();
        supernodes();
      });
    }
    drawn = shape;
    lists.querySelectorAll(".mi-name").forEach((name, i) => (name.value = app.supernodes[i][0]));
    drawUnits();
  }

  function button(into, text, key, action, name = text) {
    const made = make("button", {type: "button", "data-key": key, "aria-label": name}, into, text);
    made.addEventListener("click", action);
    return made;
  }

  function pins() {
    make("h3", {}, lists, "Pinned");
    const single = app.pinned.filter(id => groupOf(app.supernodes, id) < 0).map(id => app.index.byId.get(id));
    if (!app.pinned.length) make("p", {class: "mi-hint"}, lists, "None yet. Pin nodes, then put them into a supernode.");
    const chips = make("div", {class: "mi-chips"}, lists);
    for (const node of single) {
      const chip = make("span", {class: "mi-chip"}, chips);
      const link = make("button", {type: "button", class: "mi-link", title: placeOf(node)}, chip, cut(titleOf(node), 30));
      link.addEventListener("click", () => app.click(node));
      button(chip, "×", `unpin${node.i}`, () => app.pin(node), `unpin ${titleOf(node)}`);
    }
    if (!single.length) return;
    const row = make("form", {class: "mi-row"}, lists);
    const name = make("input", {placeholder: "name", "aria-label": "name of the new supernode", "data-key": "new"}, row);
    name.value = draft;
    name.addEventListener("input", () => (draft = name.value));
    make("button", {type: "submit"}, row, single.length === 1 ? "make it a supernode" : `group these ${single.length}`);
    row.addEventListener("submit", event => {
      event.preventDefault();
      const text = name.value.trim() || cut(titleOf(single[0]), 40);
      draft = "";
      app.set({supernodes: grouped(app.supernodes, text, single.map(node => node.id))});
    });
  }

  function supernodes() {
    if (!app.supernodes.length) return;
    make("h3", {}, lists, "Supernodes");
    app.supernodes.forEach((group, i) => {
      const row = make("div", {class: "mi-row mi-supernode"}, lists);
      const tick = make("input", {type: "checkbox", "aria-label": `merge supernode ${i + 1}`, "data-key": `t${i}`}, row);
      tick.checked = ticked.has(i);
      tick.addEventListener("change", () => ((tick.checked ? ticked.add(i) : ticked.delete(i)), update()));
      make("b", {}, row, String(i + 1));
      const given = {class: "mi-name", "aria-label": `name of supernode ${i + 1}`, "data-key": `n${i}`};
      const name = make("input", given, row);
      name.addEventListener("change", () => {
        const text = name.value.trim() || app.supernodes[i][0];
        app.set({supernodes: renamed(app.supernodes, i, text)});
        name.value = text;
      });
      make("small", {}, row, group.length === 2 ? "1 node" : `${group.length - 1} nodes`);
      button(row, "dissolve", `d${i}`, () => {
        ticked.clear();
        app.set({supernodes: dissolved(app.supernodes, i)});
      }, `dissolve supernode ${i + 1}`);
      const members = () => group.slice(1).map(id => app.index.byId.get(id));
      row.addEventListener("mouseenter", () => app.glanceAt(members()));
      row.addEventListener("mouseleave", () => app.glanceAt([]));
    });
    if (app.supernodes.length < 2) return;
    const merge = button(lists, "merge the ticked", "merge", () => {
      const chosen = ticked;
      ticked = new Set();
      app.set({supernodes: merged(app.supernodes, chosen)});
    });
    merge.disabled = ticked.size < 2;
  }

  // The graph of supernodes and single pins: summed links, drawn as boxes from the inputs up.
  function drawUnits() {
    drawing.replaceChildren();
    const single = app.pinned.filter(id => groupOf(app.supernodes, id) < 0);
    const parts = [...app.supernodes.map(group => [group[0], group.slice(1)]), ...single.map(id => [null, [id]])];
    const units = parts.map(([name, ids], i) => {
      const nodes = ids.map(id => app.index.byId.get(id));
      const mean = of => nodes.reduce((sum, node) => sum + of(node), 0) / nodes.length;
      return {name: name ?? titleOf(nodes[0]), nodes, i, x: mean(node => node.x), y: mean(node => rowOf(node, app.layout))};
    });
    if (units.length < 2) return;
    make("h3", {}, drawing, "Their graph: direct effects, summed over the nodes of each");
    const edges = summed(app.index, units), [wide, high] = arrange(units);
    const label = edges.map(({from, to, weight}) => `${units[from].name} to ${units[to].name} ${signed(weight)}`).join("; ");
    const svg = draw("svg", {width: wide, height: high, role: "img", "aria-label": label || "no links"}, drawing);
    drawSums(svg, units, edges);
    for (const unit of units) {
      const box = draw("g", {class: "mi-unit", transform: `translate(${unit.left} ${unit.top})`}, svg);
      draw("rect", {width: BOX, height: 30, rx: 5, class: unit.nodes.length > 1 ? "mi-many" : ""}, box);
      draw("text", {x: BOX / 2, y: 19, "text-anchor": "middle"}, box, cut(unit.name, 20));
      draw("title", {}, box, unit.nodes.map(node => `${titleOf(node)} (${placeOf(node)})`).join("\n"));
      box.addEventListener("mouseenter", () => app.glanceAt(unit.nodes));
      box.addEventListener("mouseleave", () => app.glanceAt([]));
      box.addEventListener("click", () => app.click(unit.nodes[0]));
    }
  }

  return {update};
}

const BOX = 150, BETWEEN = 62;

const rowOf = (node, layout) => layout.rows.findLastIndex(edge => edge <= node.y);

// Boxes of about the same height share a line; a line's boxes keep their order by position.
function arrange(units) {
  const lines = [];
  for (const unit of [...units].sort((a, b) => b.y - a.y)) {
    const line = lines.at(-1);
    if (line && line.at(-1).y - unit.y < 0.5 && line.length < 6) line.push(unit);
    else lines.push([unit]);
  }
  const wide = Math.max(...lines.map(line => line.length)) * (BOX + 30) + 20;
  lines.forEach((line, down) => {
    line.sort((a, b) => a.x - b.x);
    line.forEach((unit, i) => {
      unit.left = wide / 2 + (i - line.length / 2) * (BOX + 30) + 15;
      unit.top = 8 + down * (30 + BETWEEN);
    });
  });
  return [wide, lines.length * (30 + BETWEEN) - BETWEEN + 16];
}

function drawSums(svg, units, edges) {
  const largest = Math.abs(edges[0]?.weight ?? 1);
  edges.forEach(({from, to, weight}, i) => {
    const a = units[from], b = units[to], up = a.top >= b.top;
    const [x1, y1] = [a.left + BOX / 2, up ? a.top : a.top + 30], [x2, y2] = [b.left + BOX / 2, up ? b.top + 30 : b.top];
    const bow = (i % 3 - 1) * 14, cx = (x1 + x2) / 2 + bow, cy = (y1 + y2) / 2 - (y1 === y2 ? 40 : 0);
    const given = {class: weight < 0 ? "mi-minus" : "mi-plus", "stroke-width": 0.8 + 4 * Math.abs(weight) / largest};
    const line = draw("g", {class: "mi-links mi-strong"}, svg);
    const path = draw("path", {...given, d: `M${x1} ${y1}Q${cx} ${cy} ${x2} ${y2}`}, line);
    const turn = Math.atan2(y2 - cy, x2 - cx) * 180 / Math.PI, head = `translate(${x2} ${y2}) rotate(${turn})`;
    draw("polygon", {class: `mi-arrow ${given.class}`, points: "0,0 -9,-4 -9,4", transform: head}, line);
    draw("title", {}, path, `${units[from].name} → ${units[to].name}: ${signed(weight)}`);
    if (i >= 24) return;
    const t = 0.35 + 0.15 * (i % 3), mix = (p, c, q) => (1 - t) ** 2 * p + 2 * t * (1 - t) * c + t * t * q;
    draw("text", {class: "mi-sum", x: mix(x1, cx, x2), y: mix(y1, cy, y2) + 4, "text-anchor": "middle"}, line, signed(weight));
  });
}
