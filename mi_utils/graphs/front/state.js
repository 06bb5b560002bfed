// What the browser knows of a graph: its nodes with their links both ways, and what can be done to supernodes.
// Nothing here touches the page.

function indexGraph(graph, layout) {
  const nodes = graph.nodes.map((raw, i) => ({
    i, raw, id: raw.node_id, kind: kindOf(raw), x: layout.x[i], y: layout.y[i],
    token: layout.tokens[raw.ctx_idx], into: [], out: [],
  }));
  const byId = new Map(nodes.map(node => [node.id, node]));
  const links = graph.links.map(link => {
    const made = {source: byId.get(link.source), target: byId.get(link.target), weight: link.weight};
    made.source.out.push(made);
    made.target.into.push(made);
    return made;
  });
  const bySize = (a, b) => Math.abs(b.weight) - Math.abs(a.weight);
  links.sort(bySize);
  for (const node of nodes) {
    node.into.sort(bySize);
    node.out.sort(bySize);
  }
  return {nodes, byId, links};
}

function kindOf(raw) {
  if (raw.feature_type === "embedding") return "token";
  if (raw.feature_type === "logit") return "logit";
  return raw.feature_type.includes("error") ? "error" : "feature";
}

// A feature's index is in its id: "layer_index_position".
function titleOf(node) {
  const {raw, kind} = node;
  if (kind === "token") return `token ${node.token}`;
  if (raw.clerp.trim()) return raw.clerp.trim();
  if (kind === "error") return `error of layer ${raw.layer}`;
  const parts = node.id.split("_");
  return kind === "feature" && parts.length === 3 ? `layer ${raw.layer}, feature ${parts[1]}` : node.id;
}

// A logit in short: its token and probability, if its label has the usual form.
function answerOf(node) {
  const found = /^Output "([^]*)" \(p=([\d.]+)\)$/.exec(node.raw.clerp);
  return found ? `${cut(found[1].replace(/^ | $/g, "·"), 12)} ${found[2]}` : cut(titleOf(node), 18);
}

function placeOf(node) {
  const layer = {token: "embedding", logit: "logits"}[node.kind] ?? `layer ${node.raw.layer}`;
  return `${layer}, position ${node.raw.ctx_idx} ${node.token}`;
}

const plain = number => {
  const size = Math.abs(number);
  if (size !== 0 && (size < 1e-3 || size >= 1e6)) return size.toExponential(2).replace("-", "−");
  return size >= 1000 ? size.toFixed(0) : size === 0 ? "0" : size.toPrecision(3);
};
const signed = number => (number < 0 ? "−" : "+") + plain(number);
const cut = (text, longest) => text.length > longest ? text.slice(0, longest - 1) + "…" : text;

// Tokens, logits and nodes of unknown influence are always there.
function passes(node, threshold) {
  const {influence} = node.raw;
  return node.kind === "token" || node.kind === "logit" || influence == null || influence <= threshold;
}

function matches(node, text) {
  const wanted = text.trim().toLowerCase();
  const own = [titleOf(node), node.token.replaceAll("·", " "), node.token, node.id];
  return own.some(one => one.toLowerCase().includes(wanted));
}

// Supernodes are lists as in the file: a name, then node ids. Each function returns new lists.
const groupOf = (groups, id) => groups.findIndex(group => group.indexOf(id, 1) > 0);
const without = (groups, ids) => groups
  .map(group => [group[0], ...group.slice(1).filter(id => !ids.includes(id))])
  .filter(group => group.length > 1);
const grouped = (groups, name, ids) => [...without(groups, ids), [name, ...ids]];
const renamed = (groups, at, name) => groups.map((group, i) => i === at ? [name, ...group.slice(1)] : group);
const dissolved = (groups, at) => groups.filter((_, i) => i !== at);
const merged = (groups, ticked) => {
  const parts = groups.filter((_, i) => ticked.has(i));
  const whole = [parts.map(group => group[0]).join(" + "), ...parts.flatMap(group => group.slice(1))];
  return [...groups.filter((_, i) => !ticked.has(i)), whole];
};

// Summed links between supernodes and single pinned nodes; links inside one are left out.
function summed(index, units) {
  const unitOf = new Map(units.flatMap((unit, i) => unit.nodes.map(node => [node, i])));
  const sums = new Map();
  for (const {source, target, weight} of index.links) {
    const from = unitOf.get(source), to = unitOf.get(target);
    if (from === undefined || to === undefined || from === to) continue;
    const key = from * units.length + to;
    sums.set(key, (sums.get(key) ?? 0) + weight);
  }
  const edges = [...sums].map(([key, weight]) => ({from: Math.floor(key / units.length), to: key % units.length, weight}));
  return edges.sort((a, b) => Math.abs(b.weight) - Math.abs(a.weight));
}

// What a saved file says about the view, as far as this graph has its nodes.
function stateIn(file, index) {
  const params = file && typeof file === "object" ? file.qParams : null;
  if (!params || typeof params !== "object") return null;
  const strings = list => Array.isArray(list) ? list.filter(one => typeof one === "string") : [];
  const groups = (Array.isArray(params.supernodes) ? params.supernodes : []).map(strings).filter(one => one.length);
  const known = ids => [...new Set(ids)].filter(id => index.byId.has(id));
  const pins = strings(params.pinnedIds), members = groups.flatMap(group => group.slice(1));
  let lost = [...pins, ...members].filter(id => !index.byId.has(id)).length;
  let supernodes = [];
  for (const group of groups) {
    const ids = known(group.slice(1));
    if (ids.length) supernodes = grouped(supernodes, group[0], ids);
  }
  const clicked = index.byId.has(params.clickedId) ? params.clickedId : "";
  return {pinned: known(pins), supernodes, clicked, lost};
}
